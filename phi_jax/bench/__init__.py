"""How fast a training step and the sampler are here. Beside other implementations: tests/benchmarks/."""
