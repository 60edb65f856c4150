"""teacher: a model trained on texts of which a stronger teacher wrote a share.

At paper GPT-4, which is c.teachers.grader, writes beside GPT-3.5, and phi-1 is finetuned on that; nobody has paid for
it. At micro and nano there is no server to ask, so both teachers are stand-ins: the strong one is the grammar, whose
texts are right, and the weak one "gen1" of collapse.py, a model that learnt from the grammar's exercises and writes with
mistakes, of which the checks find those that show when a text is run. There the share is that of the mixture, and the
student is trained from fresh weights. With strong=1.0 it learns what the weak teacher learnt.
"""

import runpy
from pathlib import Path

PAPER = ("no numbers; GPT-4's texts are expected to help", {})


def get_points(h):
    # configs/ is no package: a sweep is loaded by its path.
    base = runpy.run_path(str(Path(__file__).with_name("collapse.py")))["get_points"](h)["replaced"]
    paper = h.scale == "paper"
    weak = base["models"]["gen1"]
    teachers = ("grader", "writer") if paper else ("grammar.exercises", "gen2.exercises")

    def changes(share):
        parts = [(name, part) for name, part in zip(teachers, (share, 1 - share), strict=True) if part]
        if paper:
            return {"texts.teacher.writer": ",".join(f"{name}:{part}" for name, part in parts), "models.raw+exercises": None}
        return base | {"models": {"gen1": weak, "student": weak | {"mixture": parts}}, "texts.gen3": None}

    return h.chain(*(h.point(f"strong={share}", changes(share)) for share in (0.0, 0.1, 0.5, 1.0)))
