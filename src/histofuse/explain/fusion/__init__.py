"""Explanations of fused decisions."""
