"""The page: our numbers with what they rest on, beside the paper's."""
