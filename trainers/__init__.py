"""Training, evaluation and tracking of detectors."""
