"""phi-1-small (350M): phi-1 in every field but the model's size. Arguments as in phi_1.py."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

HARDWARE = {  # as phi_1.py's; no more than a batch of finetuning, 256
    "8xa100": (128, "cudnn", "none"),
    "8xh100": (128, "cudnn", "none"),
    "8xh200": (256, "cudnn", "none"),
    "1xh100": (16, "cudnn", "none"),
    "16xv5e": (64, "splash", "none"),
    "16xv5p": (256, "splash", "none"),
    "16xv6e": (256, "splash", "dots"),
}


def get_config(argument: str = "") -> ConfigDict:
    """argument: as phi_1.py's."""
    # configs/ is no package: a config is loaded by its path, from any directory.
    c = runpy.run_path(str(Path(__file__).with_name("phi_1.py")))["get_config"](argument, HARDWARE)
    c.model.num_layers = 20  # blocks (paper, section 2.3)
    c.model.hidden_size = 1024  # width D (paper, section 2.3)
    c.model.intermediate_size = 4096  # MLP width F (paper, section 2.3)
    c.model.num_heads = 16  # attention heads (paper, section 2.3)
    c.report.title = "phi-1-small"  # heading of the page
    return c  # the paper gives no hyper-parameters of phi-1-small: those of phi-1
