"""Raw code in; documents deduplicated, graded and filtered out."""
