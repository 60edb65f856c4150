"""Held-out problems in training text: found by syntax, by behaviour and by their words, and taken out."""
