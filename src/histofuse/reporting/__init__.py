"""The report: one page for a person, over what DVC holds."""
