"""Health records in a table of any kind, read by a declaration."""
