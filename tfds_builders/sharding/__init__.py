"""The build engine: scan, validate, split, plan, write."""
