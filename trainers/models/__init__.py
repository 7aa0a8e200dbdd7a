"""Detectors: functions that return uncompiled Keras 3 models, preprocessing inside."""
