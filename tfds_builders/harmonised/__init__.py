"""A built dataset with all its images encoded alike."""
