"""Readers of the published formats, cohorts, patches and splits."""
