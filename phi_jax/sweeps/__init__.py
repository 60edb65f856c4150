"""Sweeps: many experiments that share what they have in common."""
