"""Simulated BreCaHAD frames and MIMIC-IV tables in the published formats."""
