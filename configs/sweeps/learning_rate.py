"""learning_rate: the peak rate by the model's size, nine points (ours; the paper gives one rate, 1e-3)."""

SIZES = {  # scale -> (layers, width) of three models; the MLP is four times as wide, heads are of one size
    "micro": (16, ((1, 16), (2, 32), (3, 64))),
    "nano": (32, ((2, 64), (4, 128), (6, 192))),
    "paper": (64, ((12, 768), (20, 1024), (24, 2048))),
}


def get_points(h):
    head_dim, shapes = SIZES[h.scale]
    sizes = h.chain(*(
        h.point(f"{layers}x{width}", {
            "model.num_layers": layers,
            "model.hidden_size": width,
            "model.intermediate_size": 4 * width,
            "model.num_heads": width // head_dim,
        }) for layers, width in shapes
    ))
    return h.product(sizes, h.sweep("training.learning_rate", (3e-4, 1e-3, 3e-3)))
