"""A micro run as it would be had language models, or somebody's files, taken the grammar's place."""

import json
import shutil
from pathlib import Path

_DIVERSITY = {
    "texts": 1116, "sampled": 1116, "words": 20000,
    "distinct_1": 0.1312, "distinct_2": 0.5241, "distinct_3": 0.7623, "distinct_4": 0.8711, "compression_ratio": 3.214,
    "cosine_distance": 0.9412, "effective_texts": 171.3, "alike_openings": 0.0735,
    "commonest_opening": {"words": "Imagine you are building a", "share": 0.0121},
}  # fmt: skip
_COVERAGE = {
    "lessons": 1116, "areas": 1.0, "topics": 0.9925, "area_evenness": 0.9981, "topic_evenness": 0.9876,
    "thin_areas": ["Files and formats", "Graphs"],
}  # fmt: skip


def _texts(*, taught, **other):
    facts = {
        "written": 1416, "kept": 1116, "set_aside": 300, "reasons": {"does not run": 42, "near copy": 258},
        "boilerplate_removed": 57, "bytes": 2_520_417, "diversity": dict(_DIVERSITY),
    }  # fmt: skip
    if taught:
        facts |= {"requested": 1200, "kept_at_first": 983, "second_tries": 216, "kept_at_second": 133}
        facts["diversity"]["coverage"] = _COVERAGE
    return {**facts, **other}


def _teacher(model, mode, requests, dollars):
    return {
        "model": model, "mode": mode, "prices_as_of": "2026-11-02", "requests": requests, "answered": requests - 20,
        "refused": 4, "filtered": 2, "length": 9, "poisoned": 5, "prompt_tokens": 412 * requests,
        "completion_tokens": 640 * requests, "dollars": dollars,
    }  # fmt: skip


_WRITERS = {
    "writer": _teacher("gpt-4o-mini-2024-07-18", "batch", 1950, 12.345678),
    "ours": _teacher("phi-350m", "live", 504, 0),
}
WRITTEN = {
    "teacher": {
        "teacher": "writer:0.8,ours:0.2",
        "teachers": _WRITERS,
        "dollars": 12.345678,
        "prompts": {
            "textbooks": {"version": "textbook.v1", "sha256": "3f" * 32},
            "exercises": {"version": "exercise.v1", "sha256": "a1" * 32},
        },
        "textbooks": _texts(taught=True),
        "exercises": _texts(
            taught=True,
            requested=880,
            second_tries=159,
            written=1038,
            kept=818,
            kept_at_first=721,
            kept_at_second=97,
            set_aside=220,
            reasons={"a test fails": 44, "near copy": 176},
        ),
    },
    "files": {
        "teacher": "files",
        "files": ["mine.jsonl"],
        "textbooks": _texts(taught=False),
        "exercises": _texts(taught=False, kept=818, set_aside=598, reasons={"identical text": 598}),
    },
}  # by the name of the artifact: facts of `synthesize`
GRADED = {
    "grader": "judge", "graded": 98, "high": 30, "threshold": 0.7, "reasons": {"no vote: 3 refused": 2},
    "prompt": {"version": "grade.v1", "sha256": "c0" * 32},
    "teaching": {"teachers": {"judge": _teacher("gpt-4.1-mini", "live", 300, 0.03125)}, "dollars": 0.03125},
}  # fmt: skip


def written_by(name, run, target):
    """A copy of a micro run whose texts come from `name`, an entry of WRITTEN, and whose benchmark is a file.

    Where language models wrote, one has graded, too.
    """
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    problems = target / "problems.jsonl"
    shutil.copy(target / "synthesize" / "grammar" / "problems.jsonl", problems)
    (target / "synthesize" / "grammar").rename(target / "synthesize" / name)

    def change(manifest):
        for source in manifest["inputs"].values():
            source["artifact"] = source["artifact"].replace("synthesize/grammar", f"synthesize/{name}")
        if manifest["stage"] == "synthesize":
            settings = {"teacher": WRITTEN[name]["teacher"]}
            manifest.update(name=name, facts=WRITTEN[name], config={"synthesize": settings})
        if manifest["stage"] == "annotate" and name == "teacher":
            manifest["facts"] = GRADED
        if manifest["stage"] == "filter" and name == "teacher":
            manifest["facts"].update(grader="judge", comment_share={"score": 0.12})
        if manifest["stage"] == "evaluate":
            manifest["config"]["evaluate"]["benchmark"] = str(problems)
            del manifest["inputs"]["problems"]

    for path in Path(target).glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
    return target
