"""AI vs Human generated images."""
