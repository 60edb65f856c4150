"""Held-out problems in training text: found by syntax and by their words, and taken out."""
