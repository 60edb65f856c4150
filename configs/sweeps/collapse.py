"""collapse: models of generation 1, 2 and 3, each trained on texts that the one before wrote, without people's and with them.

"replaced": a generation has only the texts of the one before; "accumulated": those of all before, and the first texts
beside them, in equal shares. The first texts are exercises of the grammar at micro and nano, and of the teacher at
paper. Each model is trained on exercises alone, from fresh weights. What a model writes passes the checks that a
teacher's texts pass: what does not run, or gives another result than its examples state, teaches nobody. Where too few
texts are left for a batch, or for what is held out, the next training says so and ends: ask for more.

A model's validation loss is taken on what is held out of its own texts, and says nothing beside another's. So each has
a probe, "gen2-probe": the same weights after one step at a rate that moves none of them, with the same scores; its
validation loss is on what is held out of the first texts. The facts of stage `synthesize` say how many texts of a
generation were kept, why the others were not, and how many of all were different.
"""

SMALL = {"config": "../nano.py", "model.num_layers": 2, "tokenize.validation_fraction": 0.1}
SCALES = {  # whose the first texts are, exercises that each generation is asked for, and what else differs
    "micro": ("grammar", 2000, SMALL | {"texts.grammar.family_cap": 6}),
    "nano": ("grammar", 4000, SMALL),
    "paper": ("teacher", 1_000_000, {}),
}
PAPER = ("no numbers; critics point at collapse", {})  # "The Curse of Recursion"


def get_points(h):
    first, requests, changes = SCALES[h.scale]
    sets = [f"{name}.exercises" for name in (first, "gen2", "gen3")]
    texts = {
        "textbook_requests": 0, "exercise_requests": requests, "share": 1.0, "temperature": 1.0,
        "near_copy_threshold": 1.0, "sandbox": "full", "sandbox_workers": 2,
    }
    changes = changes | {
        "tokenize.learn_on": sets[:1], "evaluate.perturbations": (),
        "finetune.steps": 1, "finetune.learning_rate": 1e-30, "finetune.muon_learning_rate": 1e-30,  # the probes'
        "texts.gen2": texts | {"writer": "models.gen1"}, "texts.gen3": texts | {"writer": "models.gen2"},
    }

    def model(mixture, start="", rules="training"):
        return {"mixture": [(name, 1.0) for name in mixture], "start": start, "rules": rules, "select": "latest"}

    def point(name, *begins):
        """begins: the first of the sets that each generation is trained on."""
        models = {f"gen{end}": model(sets[begin:end]) for end, begin in enumerate(begins, 1)}
        probes = {f"{name}-probe": model(sets[:1], name, "finetune") for name in models}
        return h.point(name, changes | {"models": models | probes})

    return h.chain(point("replaced", 0, 1, 2), point("accumulated", 0, 0, 0))
