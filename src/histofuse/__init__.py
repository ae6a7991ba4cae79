"""Fusing histopathology patches with electronic health records."""
