"""How each model does: results by split, comparison, tables and figures."""
