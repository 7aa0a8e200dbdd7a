"""Anybody's own real and fake images."""
