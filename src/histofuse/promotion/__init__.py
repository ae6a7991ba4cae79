"""Versions into production and back: limits, gate, evidence, decision, log."""
