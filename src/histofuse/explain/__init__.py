"""Maps and SHAP values."""
