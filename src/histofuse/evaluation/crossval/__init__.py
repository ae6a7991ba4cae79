"""Cross-validation by case, and the comparison with the paper's protocol."""
