"""optimizer: the same experiment with AdamW, the paper's, and with Muon."""


def get_points(h):
    return h.sweep("training.optimizer", ("adamw", "muon"))
