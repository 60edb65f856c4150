"""Exact and near copies of documents, found and dropped."""
