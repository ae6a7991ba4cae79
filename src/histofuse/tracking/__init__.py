"""MLflow: the recorder, the store, and publishing."""
