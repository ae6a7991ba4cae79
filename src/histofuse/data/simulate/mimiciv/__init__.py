"""Simulated tables in MIMIC-IV's format."""
