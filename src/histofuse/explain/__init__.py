"""Grad-CAM and SHAP."""
