"""Checks that must not fail before a model is believed."""
