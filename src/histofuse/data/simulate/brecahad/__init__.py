"""Simulated frames in BreCaHAD's format."""
