"""Deepfake faces (DFDC), one of each video."""
