"""Image files: formats, pixels, resolution, tissue."""
