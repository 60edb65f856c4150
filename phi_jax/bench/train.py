"""`phi-jax bench train`: how fast a training step is, on random tokens through the step that training runs.

No data, no checkpoints. Also `python -m phi_jax.bench.train`, which needs only jax, flax and optax.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_jax.bench.case import SHAPES, Case, case_of_shape
from phi_jax.errors import UserError

EXAMPLE = "phi-jax bench train --shape nano --peer transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`. What is not given is the config's, or the shape's own."""
    add = parser.add_argument
    add("--config", metavar="FILE.py[:ARG]", help="measure a config's model; needs ml_collections")
    add("--shape", choices=tuple(SHAPES), help="measure a shape that is built in (default nano)")
    add("--microbatch", type=_positive, metavar="B", help="sequences in one pass, over all devices")
    add("--microbatches", type=_positive, metavar="A", help="passes whose gradients make one step")
    add("--attention", choices=("xla", "cudnn", "splash"), help="kernel")
    add("--remat", choices=("none", "dots", "full"), help="what the backward pass recomputes")
    add("--unroll", type=_positive, metavar="N", help="blocks in one turn of the loop over them")
    add("--dtype", choices=("bfloat16", "float32"), help="of activations")
    add("--loss-chunk", type=_positive, metavar="N", help="sequence positions whose logits exist at once")
    add("--steps", type=_positive, default=20, metavar="N", help="timed steps, after warm-up (default 20)")
    add("--mesh", type=_mesh, metavar="D,F,T", help="devices along data, fsdp, tensor (default: all along data)")
    add("--cpu-devices", type=_positive, metavar="N", help="devices that a CPU is cut into")
    add("--peer", choices=("transformers",), help="measure that one too, in turns, and print the ratio")
    add("--rounds", type=_positive, default=3, metavar="N", help="turns with --peer (default 3)")
    add("--sweep", action="store_true", help="try a fixed list of choices and XLA flags, for a GPU; best first")
    add("--out", type=Path, metavar="FILE.json", help="where the result goes; with --sweep JSON lines")


def run(options: argparse.Namespace, config_arguments: Sequence[str] = ()) -> None:
    """Measures, prints the result as JSON (a sweep: as a table) and writes it to options.out.

    config_arguments: `--config FILE` and its overrides, which phi-jax's command line sets apart; see config.load.
    Raises UserError for options that do not go together, and what the measurements raise.
    """
    if options.config:
        config_arguments = ["--config", options.config, *config_arguments]
    if config_arguments and options.shape:
        raise UserError("bench train: --config and --shape both name a model; give one of them")
    if options.sweep and options.peer:
        raise UserError("bench train: --sweep and --peer are two different measurements; give one of them")
    if options.out is not None and not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: there is no directory {options.out.parent}; make it first")
    case = _chosen(options, config_arguments)
    if options.sweep:
        from phi_jax.bench.sweep import sweep, table

        print(table(sweep(case, options.out)))
        return
    result = _measure(case, options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    if options.peer:
        ratio = result["ratio"]
        print(
            f"ours / {options.peer}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f} over "
            f"{options.rounds} rounds, {len(ratio['undisturbed'])} of them undisturbed)",
            file=sys.stderr,
        )


def _measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    if options.peer:
        from phi_jax.bench.rounds import compare

        return compare(case, options.rounds)
    from phi_jax.bench.measure import measure

    return measure(case)


def _chosen(options: argparse.Namespace, config_arguments: Sequence[str]) -> Case:
    """The config's or the shape's case with what the options change."""
    if config_arguments:
        case = _case_of_config(config_arguments, options.steps)
    else:
        case = case_of_shape(options.shape or "nano", steps=options.steps)
    model = {"attention": options.attention, "remat": options.remat, "scan_unroll": options.unroll}
    model["compute_dtype"] = options.dtype
    named = ("microbatch", "microbatches", "loss_chunk", "mesh", "cpu_devices")
    return dataclasses.replace(
        case, model={**case.model, **_given(model)}, **_given({name: getattr(options, name) for name in named})
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _case_of_config(config_arguments: Sequence[str], steps: int) -> Case:
    from phi_jax import config
    from phi_jax.training.rules import model_config

    chosen = config.load(config_arguments)
    training = chosen.training
    shape = model_config(chosen.model, vocab_size=chosen.tokenize.vocab_size, seq_len=chosen.tokenize.seq_len)
    return Case(
        name=chosen.report.title,
        model=dataclasses.asdict(shape),
        microbatch=training.global_batch_size // training.microbatches,
        microbatches=training.microbatches,
        loss_chunk=training.loss_chunk,
        steps=steps,
        mesh=tuple(training.mesh),
        cpu_devices=training.cpu_devices,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _mesh(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three sizes: data,fsdp,tensor")
    return sizes


def main() -> None:
    """`python -m phi_jax.bench.train`; exits with 1 and one line on an error, 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m phi_jax.bench.train", epilog=f"example:\n  {EXAMPLE}", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    options, overrides = parser.parse_known_args()
    if overrides and not (options.config and overrides[0].startswith("--config.")):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    try:
        run(options, overrides)
    except UserError as error:
        sys.exit(f"phi-jax: error: {error}")


if __name__ == "__main__":
    main()
