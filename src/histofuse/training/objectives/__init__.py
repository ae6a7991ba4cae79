"""What studies measure, one file a kind of model."""
