"""Predictions for frames and whole slides."""
