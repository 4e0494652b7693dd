"""Measurements, each as a ratio between ways that took turns in one run. See README.md."""
