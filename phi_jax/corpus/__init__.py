"""Raw code in, documents out."""
