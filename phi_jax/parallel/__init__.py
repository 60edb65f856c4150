"""Where arrays live: the mesh and the one table that maps a model's axis names onto it."""
