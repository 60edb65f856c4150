"""Files of problems and samples that others write: JSON lines, and EvalPlus's own problems and results."""
