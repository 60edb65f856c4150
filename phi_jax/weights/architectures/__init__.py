"""What the files of each architecture say about our parameters."""
