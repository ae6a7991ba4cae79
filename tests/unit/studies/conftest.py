"""Fixtures of encoded health records."""

from encoded_records import encoded

__all__ = ["encoded"]
