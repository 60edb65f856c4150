"""Stage `synthesize` with a model of this experiment: what it writes passes the checks that a teacher's texts pass.

Each text is sampled behind <|endoftext|> alone, at the entry's temperature, up to the next one or to the end of the
context; which kind it is meant to be only the checks know. A draw is keyed by (seed, kind, number of the text,
position).
"""

from collections.abc import Iterator

from phi_jax.config import Config
from phi_jax.model.sampling import Decoding
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.store.artifact import Draft, Inputs
from phi_jax.store.documents import Row
from phi_jax.synthesis.outputs import Fault, declare, judged
from phi_jax.synthesis.review import requested, sift
from phi_jax.weights.models import load_model


def synthesize(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `synthesize`. inputs: "model", of a training or a selection. Outputs: "textbooks" and "exercises"
    (documents; columns: review.SCHEMA) and "set_aside" (path, code, reason, text).

    A text is sampled when it is about to be checked, and what came of that is written part by part: a killed run
    samples none of it again.
    """
    rules, facts = getattr(config.texts, draft.name), {}
    params, shape, tokenizer = load_model(inputs["model"].directory)
    start, longest = tokenizer.end_of_text_id, shape.max_seq_len - 1
    sampler = Sampler(params, shape, end_of_text_id=start, max_new_tokens=longest)
    how = Decoding(rules.temperature, seed=config.seed)

    def write(asked: list[Request]) -> Iterator[Row]:
        for place, completion in sorted(sampler.complete(asked)):
            text, fault = tokenizer.decode(completion.tokens), None
            if completion.stop_reason == "length":
                fault = Fault("length", f"it does not end within {longest} tokens")
            elif not text.strip():
                fault = Fault("no_text", "it is empty")
            path = f"{draft.name}/{asked[place].sample}"
            yield judged({"text": text, "path": path, "source": rules.writer, "teacher": rules.writer}, fault)

    for prompt, (kind, count) in enumerate(requested(rules).items()):
        asked = (Request([start], prompt, number, how) for number in range(count))
        facts[kind] = {"requested": count, **sift(draft, kind, asked, rules, write)}
    declare(draft, written_by=rules.writer, **facts)
