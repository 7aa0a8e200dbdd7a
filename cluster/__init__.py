"""How it all runs: Ray head and workers, MLflow server, serving."""
