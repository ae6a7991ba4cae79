"""The server: MLflow's scoring protocol over HTTP."""
