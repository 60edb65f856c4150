"""What a training run needs before it is started: memory, time, traffic."""
