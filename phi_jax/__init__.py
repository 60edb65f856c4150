"""phi_jax: phi-1 ("Textbooks Are All You Need", arXiv 2306.11644) end to end in JAX."""
