"""Metrics, audits, tables and figures."""
