"""Faces of the Deepfake Detection Challenge, in parts."""
