"""Deepfake and real images (OpenForensics)."""
