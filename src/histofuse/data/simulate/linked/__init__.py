"""Simulated patients with a tissue and a record of their own: docs/positive_control.md."""
