"""Many devices and processes: the mesh, where a model's axes lie on it, the sampler, the watch over other processes."""
