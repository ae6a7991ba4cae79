"""Chapters of the report, each a function from what a run left to blocks."""
