"""`phi-jax plan --pipeline`: what each stage of an experiment writes, asks, computes and costs, before any has run.

Figures follow from the config; where it does not decide them, from the paper, from replies that lie in the journal, or
from an assumption. Each stage says in words which. Nothing is compiled.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from phi_jax.config import Config
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.planning.hardware import Hardware
from phi_jax.teacher.journal import journal_directory
from phi_jax.teacher.pilot import measured, share_file
from phi_jax.teacher.request import PICODOLLARS
from phi_jax.teacher.teachers import known, parse_shares
from phi_jax.training.rules import kept_saves, model_shape, rules_of

_STATE_BYTES = 12  # of one parameter in a save: itself and two Adam moments, float32 (Muon has one)
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DOCUMENT_BYTES = 0.85  # of a token: 3.5 bytes of text (assumed), of which Parquet takes 0.24 (nano's raw code)
_FILE = 1000  # tokens of a raw file (paper, section 2.1: over 35B tokens in over 35M files)
# What is asked for -> tokens of a prompt (a quarter of the template's bytes, and what is filled in), of a reply and of
# the text in it (an exercise has 205 in the paper, the rest are tests), and the share that passes the checks (the paper
# has 879.5K exercises, and phi_1.py asks for a million).
_ASKED = {
    "textbooks": (350, 1400, 1400, 0.8795),
    "exercises": (400, 450, 205, 0.8795),
    "grades": (550 + _FILE, 60, 60, 1),
}
_TEXTS = ("collect", "dedup", "filter", "decontaminate", "prune", "tokenize")  # stages that copy texts, or count them
_NAMED = {"collect": "raw", "dedup": "raw", "filter": "filtered"}  # ... and their texts, where not those of their name
_SAYS = {  # of a stage that asks no teacher
    "collect": "config.collect.max_files or, where that is 0, 35M files (paper), of 1,000 tokens (paper: 35B in all)",
    "dedup": "keeps all (assumed; the paper's pool came deduplicated)",
    "synthesize": "what the writer gives is not known before it has written: counted as nothing, here and below",
    "decontaminate": "keeps all (assumed)",
    "prune": "keeps all (assumed; paper: of 879.5K exercises 42.5K go at 0.95, 354K at 0.8); embeds nothing",
    "annotate": "the rubric costs nothing",
    "filter": "embeds config.filter.embed_tokens of each file, forward alone; keeps config.filter.token_budget",
    "tokenize": "2 bytes a token (assumed: a vocabulary of up to 65,536 entries)",
    "pretrain": "steps x global_batch_size x seq_len; paper: phi-1-base's 51B took 770 A100-hours, at 57% of the peak",
    "finetune": "steps x global_batch_size x seq_len; paper: phi-1's 3.1B took 7 h on 8 A100s",
    "select": "not counted",
    "export": "parameters in config.export.dtype",
    "evaluate": "164 problems (paper: HumanEval) a benchmark and perturbation, each completed once and to the end, at "
    "a tenth of the MFU (assumed); no judge",
    "report": "not counted",
}


@dataclasses.dataclass
class StagePlan:
    """What one stage will take and give."""

    says: str = ""  # what the figures follow from
    documents: float = 0  # that it writes; completions of `evaluate`
    tokens: float = 0  # in these; of a training: in its batches
    requests: float = 0  # to teachers
    dollars: float = 0  # that these cost
    flops: float = 0  # of the devices
    disk: float = 0  # bytes


def make_plans(config: Config, stages: Iterable[Any], workdir: str) -> dict[str, StagePlan]:
    """Label -> plan of each of the experiment's stages (graph.Stage, inputs first).

    workdir: whose journal of replies says what requests are like, where there is one. Raises UserError as
    teachers.known does.
    """
    shape, rules, texts = model_shape(config), config.evaluate, _texts(config, workdir)
    forward, plans = training_flops_per_token(shape) / 3, dict[str, StagePlan]()
    for one in stages:
        stage, made = one.stage, texts[_NAMED.get(one.stage, one.name)]
        plans[one.label] = plan = texts[one.label]
        if stage in _TEXTS:
            plan.documents, plan.tokens = made.documents, made.tokens
        plan.says = plan.says or _SAYS[stage]
        plan.disk = plan.tokens * (2 if stage == "tokenize" else _DOCUMENT_BYTES)
        if stage == "filter":
            files = texts["raw"].documents
            plan.flops = files * config.filter.embed_tokens * forward
            plan.disk += files * shape.hidden_size * 4
        elif stage in ("pretrain", "finetune"):
            training = rules_of(config, one.name)
            plan.tokens = training.steps * training.global_batch_size * shape.max_seq_len
            plan.flops, plan.disk = 3 * plan.tokens * forward, written_bytes(one, config)
        elif stage == "export":
            plan.disk = written_bytes(one, config)
        elif stage == "evaluate":
            plan.documents = 164 * (1 + len(rules.further_benchmarks) + len(rules.perturbations))
            plan.tokens = plan.documents * rules.max_new_tokens
            plan.flops = 10 * plan.tokens * forward
    return plans


def lines(plans: Mapping[str, StagePlan], hardware: Hardware, mfu: float) -> list[str]:
    """For people: a table of the stages, each with what its figures follow from; in the last three lines what holds for
    all, and the sums.

    Raises UserError as Hardware.flops does.
    """
    width, rate, every = max(map(len, plans), default=0), 3600 * hardware.flops(mfu), plans.values()
    price = hardware.published["dollars"] if hardware.dollars is None else hardware.dollars
    out = [f"{'stage':{width}}   documents          tokens   requests  dollars  device-h  device-$      GiB"]
    for label, p in plans.items():
        row = (
            f"{label:{width}} {p.documents:11,.0f} {p.tokens:15,.0f} {p.requests:10,.0f} {p.dollars:8,.0f} "
            f"{p.flops / rate:9,.1f} {p.flops / rate * price:9,.0f} {p.disk / 2**30:8,.1f}\n  {p.says}"
        )
        out.append(row.rstrip("; \n"))
    hours = sum(p.flops for p in every) / rate
    return [
        *out,
        f"device-hours: at an assumed {mfu:.0%} of the peak, which models far below phi-1-small do not reach; no "
        "compile, checkpoint, validation or failure time; the price of one: "
        f"{f'${price:.2f}' if price else 'unknown'} (--devices {hardware.text.partition('@')[0]}@DOLLARS sets it)",
        "GiB: documents 0.85 bytes a token (3.5 of text, assumed; Parquet takes 0.24 of nano's), saves 12 bytes a "
        "parameter, embeddings 4 bytes a value",
        f"in all: {hours:,.1f} device-hours, {hours / hardware.devices:,.1f} h on {hardware.text}, "
        f"{f'${hours * price:,.0f}' if hours * price >= 1 else 'below $1' if price else 'dollars unknown'}; "
        f"{sum(p.requests for p in every):,.0f} requests, "
        f"${sum(p.dollars for p in every):,.0f}; disk {sum(p.disk for p in every) / 2**30:,.1f} GiB",
    ]


def written_bytes(stage: Any, config: Config) -> int:
    """What a training or an export (graph.Stage) writes, at most."""
    kept = 0 if stage.stage == "export" else kept_saves(rules_of(config, stage.name))
    return num_params(model_shape(config)) * (_STATE_BYTES * kept or _DTYPE_BYTES[config.export.dtype])


def _texts(config: Config, workdir: str) -> dict[str, StagePlan]:
    """By token set, entry of config.texts and label: what is collected, kept and asked for."""
    journal, teachers = journal_directory(config, workdir), known(config)
    seen, grading = measured(journal), config.annotate
    raw = config.collect.max_files or 35_000_000
    kept = min(raw, config.filter.token_budget / _FILE)
    found = defaultdict(StagePlan, raw=StagePlan("", raw, raw * _FILE), filtered=StagePlan("", kept, kept * _FILE))

    def ask(kind: str, label: str, shares: str, count: float) -> None:
        entry, usual = label.rpartition("/")[2], _ASKED[kind]
        pilot = share_file(journal, entry)
        passed = json.loads(pilot.read_text()) if pilot.exists() else usual[3]
        for name, share in parse_shares(shares).items():
            if name not in teachers:  # the grammar, files, the rubric
                continue
            teacher, asked = teachers[name], round(share * count)
            prompt, reply, how = seen.get((kind, teacher.model), (*usual[:2], "assumed"))
            usage, good = (round(asked * prompt), round(asked * reply), 0), asked * passed
            for plan in (found[label], found[entry], found[f"{entry}.{kind}"]):
                plan.documents += good
                plan.tokens += good * reply * usual[2] / usual[1]
                plan.requests += asked
                plan.dollars += teacher.price.cost(usage, batch=teacher.mode == "batch") / PICODOLLARS
                plan.says += (
                    f"{kind} by {teacher.model} ({teacher.mode}): a prompt of {prompt:,.0f} tokens, a reply of "
                    f"{reply:,.0f} ({how}), {passed:.1%} pass; "
                )

    ask("grades", "annotate/python", grading.grader, min(raw, grading.max_files) * grading.votes)
    for name, rules in config.texts.to_dict().items():
        for kind in ("textbooks", "exercises"):
            count = rules.get(f"{kind[:-1]}_requests", 0) * rules.get("share", 0)
            ask(kind, f"synthesize/{name}", rules["writer"], count)
    return found
