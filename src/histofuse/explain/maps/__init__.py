"""Grad-CAM maps of image networks, and tests of them."""
