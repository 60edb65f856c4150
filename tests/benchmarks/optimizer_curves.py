"""Muon and AdamW on nano's `base`: the same tokens, steps and seed, one after the other; a chart and its numbers.

    python tests/benchmarks/optimizer_curves.py runs/nano --out result.json

Takes the token shards of a finished run of configs/nano.py, trains into a copy of its directory, and writes
result.json and result.svg: validation loss by tokens and by seconds of the steps. Takes two trainings' time.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("nano", {str(ROOT / "configs" / "nano.py")!r})
nano = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nano)

def get_config(argument="size=laptop"):
    c = nano.get_config(argument)
    for name in ("adamw", "muon"):
        c[name] = {{"optimizer": name}}
        c.models[name] = c.models.base.to_dict()
        c.models[name].rules = name
    return c
"""


def trained(optimizer, config, workdir):
    """[{"tokens", "seconds", "validation_loss"}] of one training."""
    stage = ["pretrain", "--config", config, "--workdir", workdir, "--name", optimizer]
    subprocess.run([sys.executable, "-m", "phi_jax.cli", *stage], cwd=ROOT, check=True)
    seconds, points = 0.0, []
    for row in map(json.loads, (Path(workdir) / "pretrain" / optimizer / "metrics.jsonl").open()):
        seconds += row.get("step_seconds") or 0.0
        if row.get("validation_loss") is not None:
            tokens = row["tokens_per_second"] * row["step_seconds"] * (row["step"] + 1)
            points.append({"tokens": round(tokens), "seconds": seconds, "validation_loss": row["validation_loss"]})
    return points


def draw(curves, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "phi_jax"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, sharey=True, figsize=(9, 3.6), layout="constrained")
    for axes, unit in zip(panels, ("tokens", "seconds"), strict=True):
        for name, points in curves.items():
            axes.plot([p[unit] for p in points], [p["validation_loss"] for p in points], marker="o", label=name)
        axes.set_xlabel(unit)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation loss (nats)")
    panels[0].legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="of a finished run of configs/nano.py")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        config, copy = Path(place) / "optimizers.py", Path(place) / "run"
        config.write_text(CONFIG)
        shutil.copytree(options.workdir, copy)
        curves = {name: trained(name, config, copy) for name in ("muon", "adamw")}
        found = json.loads((copy / "pretrain" / "muon" / "manifest.json").read_text())
    about = {name: found[name] for name in ("versions", "git_revision")}
    options.out.write_text(json.dumps({**about, "curves": curves}, indent=1) + "\n")
    draw(curves, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
