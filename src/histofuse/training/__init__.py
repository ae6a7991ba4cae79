"""Fitting, calibration and hyperparameter search."""
