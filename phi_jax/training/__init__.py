"""Training: optimizer, step and loop."""
