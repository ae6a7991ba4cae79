"""Network and tree-ensemble architectures."""
