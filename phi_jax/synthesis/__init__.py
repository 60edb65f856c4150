"""Synthetic textbooks and exercises; the built-in teacher is a grammar, not a language model."""
