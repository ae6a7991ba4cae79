"""``histofuse server``: MLflow for a team."""
