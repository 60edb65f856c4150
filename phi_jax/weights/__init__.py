"""Weights in and out, in the formats that others read and publish."""
