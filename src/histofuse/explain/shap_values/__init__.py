"""SHAP values of models of the health record, and tests of them."""
