"""Optuna studies: the search, its objectives, results and figures."""
