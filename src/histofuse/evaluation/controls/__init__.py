"""Negative controls: pairing arms, shuffled labels and images, and their verdicts."""
