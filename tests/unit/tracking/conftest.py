"""Fixtures of a small registry."""

from small_registry import artifacts_of, clone, empty_database, make, project

__all__ = ["artifacts_of", "clone", "empty_database", "make", "project"]
