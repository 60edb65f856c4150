"""Problems, completions, verdicts and scores."""
