"""open: the paper's recipe from public data, no teacher to pay: `open.py:size=100m`, `350m`, `1.3b`, and `micro` for tests.

It is phi_1.py (which has every field's meaning) but for the fields below; 350m is phi_1_small.py, micro has nano.py's sizes.
The data come from the Hugging Face Hub. As their cards say (2026-11; not fetched by us):

    codeparrot/codeparrot-clean        raw code   54 files of about 100,000 rows   each row's own licence, the GPL among them
    open-phi/programming_books_llama   textbooks  111,048 rows, 400M tokens        names no licence; by GPT-3.5 and a CodeLlama
    jinaai/code_exercises              exercises  1,468,146 rows, 0.5 GB           CC-BY-NC-SA-4.0; by GPT-3.5: not commercial

HumanEval's file is yours to bring, as for phi_1.py; so is The Stack, where you have access to it (its c.collect.columns:
"path=max_stars_repo_path", "license=max_stars_repo_licenses"). Nobody has trained these yet, and how many texts the checks
leave is not known. The four trainings on 8 A100-80GB at 40 % MFU, by arithmetic, and what is written and fetched, by `run --dry-run`.
(`plan --pipeline` says more: it counts 35M raw files where c.collect.max_files is 0, and the filter.)

    100m   2.8 hours    26 GB, and 4 GB fetched
    350m    69 hours   115 GB, and 15 GB fetched
    1.3b   270 hours   454 GB, and 15 GB fetched

Dedup writes the n-grams of all raw code to disk while it works, about twice its size: 16 GB for 100m, 100 GB for the others
(estimated); in memory it holds about 300 bytes a text.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

SIZES = ("100m", "350m", "1.3b", "micro")


def _config(name: str, argument: str = "") -> ConfigDict:
    # configs/ is no package: a config is loaded by its path, from any directory.
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"](argument)


def get_config(argument: str = "size=100m") -> ConfigDict:
    """argument: "size=" and one of SIZES."""
    size = argument.removeprefix("size=")
    if size not in SIZES:
        raise ValueError(f"open.py:{argument}: unknown; use one of {', '.join(f'size={name}' for name in SIZES)}")
    c = _config("phi_1_small" if size == "350m" else "phi_1")
    small, micro = size == "100m", size == "micro"
    if micro:
        nano = _config("nano", "size=micro")
        for section in ("annotate", "filter", "tokenize", "model", "training", "finetune", "export", "evaluate"):
            c[section] = nano[section]

    # --- Raw code: GitHub's Python of 2021, cleaned and without copies; columns content, path, license ---
    c.collect.sources = (f"hf://datasets/codeparrot/codeparrot-clean/file-0000000000{'0' if small else ''}*.json.gz",)  # 9 of 54 files for 100m (paper: The Stack)
    c.collect.mask = True  # e-mail addresses, keys and IP addresses (ours)

    # --- Texts: what others had written by teachers that they paid ---
    c.teachers = ConfigDict()  # none is asked (paper: GPT-3.5 and GPT-4)
    teacher = c.texts.teacher
    c.texts = ConfigDict()  # two entries, named after who made them
    for name in ("open_phi", "jina"):
        c.texts[name] = ConfigDict(teacher.to_dict())
        c.texts[name].writer = "files"  # they pass the checks that a teacher's texts pass
    c.texts.open_phi.files = ("hf://datasets/open-phi/programming_books_llama/data/train-*.parquet",)  # 0.63 GB
    c.texts.open_phi.columns = ("text=markdown", "teacher=model")  # a row is a book of some 15 kB; its sections' code runs as one script
    c.texts.open_phi.kind = "textbooks"  # all rows
    c.texts.open_phi.license = "other"  # the card names none
    c.texts.open_phi.teacher = "gpt-3.5 and a finetuned codellama-34b"  # where a row's `model` is empty (dataset card)
    c.texts.open_phi.terms = "OpenAI's terms and Llama 2's licence say what may be trained on these texts."  # (ours: the card is silent)
    c.texts.jina.files = ("hf://datasets/jinaai/code_exercises/data/train-*.parquet",)  # 0.49 GB
    c.texts.jina.columns = ("text=problem+solution",)  # signature and docstring, then the body
    c.texts.jina.kind = "exercises"  # all rows; they have no tests, so they are run and their examples hold
    c.texts.jina.license = "CC-BY-NC-SA-4.0"  # (dataset card)
    c.texts.jina.teacher = "gpt-3.5-turbo"  # (dataset card: ChatGPT 3.5)
    c.texts.jina.terms = "Not for commercial use; OpenAI's terms say what may be trained on these texts."  # (dataset card)

    # --- Filter: a rubric grades ---
    c.annotate.grader = "static"  # a rubric computed from the syntax tree (paper: GPT-4)
    c.filter.token_budget = {"100m": 1_000_000_000, "micro": 50_000}.get(size, 6_000_000_000)  # tokens kept; 100m: of about 2.5B (ours)
    c.tokenize.learn_on = ("raw", "open_phi.textbooks", "jina.exercises")  # where c.tokenize.tokenizer = ""

    # --- Models ---
    if small:
        c.model.num_layers = 16  # blocks; with a width of 512, as 24 x 2048 and 20 x 1024 before it: 103M parameters (ours)
        c.model.hidden_size = 512  # width D (ours)
        c.model.intermediate_size = 2048  # MLP width F = 4 D, as in the paper
        c.model.num_heads = 8  # attention heads of 64, as in the paper
        c.training.steps = 4000  # optimizer steps: 4.2B tokens, three times what there is (ours)
        c.training.schedule_steps = 6000  # of which the last third is left out, as in the paper
        c.training.global_batch_size = 512  # sequences in one step (ours)
    c.models.base.mixture = (("filtered", 0.71), ("open_phi.textbooks", 0.29)) if small else (("filtered", 0.94), ("open_phi.textbooks", 0.06))  # as many as there are, before the checks
    c.models.finetuned.mixture = (("jina.exercises", 1.0),)  # CodeExercises' counterpart
    c.models["raw+exercises"].mixture = (("jina.exercises", 1.0),)  # the control without filter and textbooks
    c.report.title = f"open {size}"  # heading of the page

    if micro:
        c.decontaminate.problems = "idioms"  # built in (paper: HumanEval)
        c.evaluate.benchmark = "idioms"  # built in (paper: HumanEval)
        c.evaluate.further_benchmarks = ()  # none
        del c.models["raw+exercises"]  # the recipe alone
    return c
