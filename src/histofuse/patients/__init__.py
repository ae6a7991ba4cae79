"""Patient level: a patient's nuclei and record -> one answer, by several methods of fusion."""
