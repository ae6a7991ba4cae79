"""``histofuse predict``."""
