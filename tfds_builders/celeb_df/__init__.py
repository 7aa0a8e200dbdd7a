"""Frames of Celeb-DF."""
