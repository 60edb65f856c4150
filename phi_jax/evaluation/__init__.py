"""Benchmarks: problems, completions, verdicts, scores with intervals."""
