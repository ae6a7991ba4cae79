"""``histofuse validate``."""
