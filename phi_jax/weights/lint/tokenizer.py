"""The tokenizer files: readable by all, in agreement with each other, with config.json and with the embedding.

transformers 4.57.6 and 5.23 were run on each of these (tests/peers/test_lint_saved.py), unless a comment says
otherwise; MLX, TGI and vLLM tokenize with transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi_jax.weights.lint.config import CONFIG, GENERATION, Shape, ids_of
from phi_jax.weights.lint.finding import (
    NUMBER,
    TEXT,
    WHOLE,
    Finding,
    Kind,
    check,
    error,
    named,
    read_object,
    warning,
)

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
ADDED = "added_tokens.json"
SPECIAL = "special_tokens_map.json"
VOCABULARY = "vocab.json"
MERGES = "merges.txt"
# Byte-level BPE in both transformers. The first four have <|endoftext|> for their end where the files name none.
GPT_2_LIKE = ("CodeGenTokenizer", "CodeGenTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast")
BYTE_LEVEL = (*GPT_2_LIKE, "PreTrainedTokenizerFast")
# A token's text, plain or in an object with its flags.
TOKEN = Kind("a token", lambda x: isinstance(x["content"] if isinstance(x, dict) and "content" in x else x, str))
DECODER = Kind(
    "an object of ids and tokens",
    lambda x: (
        isinstance(x, dict) and all(i.isdecimal() and isinstance(t, dict) and TOKEN.holds(t) for i, t in x.items())
    ),
)
SETTINGS_FIELDS = {
    "eos_token": TOKEN, "tokenizer_class": TEXT, "model_max_length": NUMBER, "added_tokens_decoder": DECODER,
}  # fmt: skip
SLOW = "transformers 4 with use_fast=False"


def lint_tokenizer(
    directory: Path, config: dict[str, Any], generation: dict[str, Any] | None, shape: Shape | None
) -> list[Finding]:
    """Findings about the tokenizer's files. shape None: sizes are not compared with the model's."""
    findings: list[Finding] = []
    settings = read_object(directory / SETTINGS, findings, SETTINGS_FIELDS)
    special = read_object(directory / SPECIAL, findings, {"eos_token": TOKEN}) or {}
    added = {ADDED: _ids(directory / ADDED, findings) or {}, SETTINGS: {}}
    for identifier, token in ((settings or {}).get("added_tokens_decoder") or {}).items():
        added[SETTINGS][token["content"]] = int(identifier)
    if (directory / TOKENIZER).is_file():
        vocabulary = _with_tokenizer_json(directory, findings)
        if vocabulary is not None:
            findings.extend(_added(added, vocabulary))
    else:
        vocabulary = _without_tokenizer_json(directory, added, findings)
    if vocabulary is not None:
        findings.extend(_size(vocabulary, shape))
    if settings is not None or not (directory / SETTINGS).is_file():
        findings.extend(_settings(settings or {}, shape))
        if vocabulary is not None:
            findings.extend(_end(vocabulary, settings or {}, special, config, generation or {}))
    return findings


def _ids(path: Path, findings: list[Finding]) -> dict[str, int] | None:
    """A file of token -> id."""
    content = read_object(path, findings, {})
    return content and check(content, dict.fromkeys(content, WHOLE), path.name, findings)


def _without_tokenizer_json(
    directory: Path, added: dict[str, dict[str, int]], findings: list[Finding]
) -> dict[str, int] | None:
    """Token -> id of vocab.json and all added tokens; None where there is no vocab.json or no merges.txt."""
    vocabulary = _ids(directory / VOCABULARY, findings)
    if vocabulary is None or _merges(directory) is None:
        problem = f"missing, and {VOCABULARY} with {MERGES} too: no client can tokenize"
        findings.append(error("no-tokenizer", TOKENIZER, problem, "get the whole directory"))
        return None
    clients = ["clients on `tokenizers` alone"]
    problem = f"missing: transformers makes it from {VOCABULARY}, {clients[0]} fail"
    findings.append(warning("no-tokenizer-json", TOKENIZER, clients, problem, "save it with transformers"))
    return vocabulary | added[ADDED] | added[SETTINGS]


def _with_tokenizer_json(directory: Path, findings: list[Finding]) -> dict[str, int] | None:
    """Token -> id of tokenizer.json, added tokens included, as `tokenizers` numbers them; None where it is damaged."""
    import tokenizers

    state = read_object(directory / TOKENIZER, findings, {})
    vocabulary = _ids(directory / VOCABULARY, findings)
    if state is None:
        return None
    try:
        loaded = tokenizers.Tokenizer.from_str(json.dumps(state))
    except Exception as wrong:  # the library raises bare Exception
        reason = str(wrong).replace("\n", " ")
        findings.append(
            error("damaged", TOKENIZER, f"not a tokenizer ({reason}): every client fails", "get a good copy")
        )
        return None
    merges = state["model"].get("merges") or []
    if any(not isinstance(merge, str) for merge in merges):
        # The notation that tokenizers 0.20 brought, from stack.md: not run.
        problem = "merges are lists of pairs: tokenizers before 0.20 fails"
        remedy = 'write each merge as one string, "a b"'
        findings.append(warning("merges-pairs", TOKENIZER, ["tokenizers before 0.20"], problem, remedy))
    for token in state.get("added_tokens") or []:
        given = loaded.token_to_id(token["content"])
        if given != token["id"]:
            problem = (
                f"the added token {token['content']!r} is said to be {token['id']}, but every client, by `tokenizers`, "
                f"numbers it {given}"
            )
            remedy = "number added tokens on from the vocabulary's end"
            findings.append(error("added-token-id", TOKENIZER, problem, remedy))
            break
    findings.extend(
        _slow_files(directory, state, vocabulary, [m if isinstance(m, str) else " ".join(m) for m in merges])
    )
    return loaded.get_vocab(with_added_tokens=True)


def _slow_files(
    directory: Path, state: dict[str, Any], vocabulary: dict[str, int] | None, merges: list[str]
) -> Iterator[Finding]:
    """vocab.json and merges.txt, which transformers 4 reads with use_fast=False."""
    theirs = _merges(directory)
    lacking = [file for file, content in ((VOCABULARY, vocabulary), (MERGES, theirs)) if content is None]
    if lacking:
        problem = f"{' and '.join(lacking)} missing: {SLOW} fails"
        yield warning("slow-files", lacking[0], [SLOW], problem, f"write both beside {TOKENIZER}")
    elif vocabulary is not None:
        added = {token["content"] for token in state.get("added_tokens") or []}  # stand in either file or in both
        plain = [
            {t: i for t, i in v.items() if t not in added} for v in (vocabulary, state["model"].get("vocab") or {})
        ]
        differ = [file for file, same in ((VOCABULARY, plain[0] == plain[1]), (MERGES, theirs == merges)) if not same]
        if differ:
            problem = f"is not {TOKENIZER}'s: {SLOW} gives other ids, silently"
            yield warning("slow-files", differ[0], [SLOW], problem, f"write both from {TOKENIZER}")


def _merges(directory: Path) -> list[str] | None:
    path = directory / MERGES
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for i, line in enumerate(lines) if line and not (i == 0 and line.startswith("#version"))]


def _size(vocabulary: dict[str, int], shape: Shape | None) -> Iterator[Finding]:
    last = max(vocabulary.values(), default=-1)
    if shape is not None and last >= shape.vocab_size:
        yield error(
            "tokenizer-size", TOKENIZER,
            f"has ids up to {last}, the embedding {shape.vocab_size} rows: every client fails on such a token, or "
            "reads another's memory",
            "get the tokenizer that belongs to these weights",
        )  # fmt: skip


def _added(said: dict[str, dict[str, int]], vocabulary: dict[str, int]) -> Iterator[Finding]:
    """Added tokens are written down three times. transformers 5 and 4's slow tokenizers go by tokenizer_config's."""
    for place, tokens in said.items():
        if wrong := [token for token, identifier in tokens.items() if vocabulary.get(token) != identifier]:
            clients = [SLOW, "transformers 5"] if place == SETTINGS else [SLOW]
            token = wrong[0]
            yield warning(
                "added-tokens", place, clients,
                f"{named([repr(t) for t in wrong])}: {tokens[token]} here, {vocabulary.get(token, 'nothing')} in "
                f"{TOKENIZER}, the former for {' and '.join(clients)}, silently",
                "save the tokenizer again",
            )  # fmt: skip


def _settings(settings: dict[str, Any], shape: Shape | None) -> Iterator[Finding]:
    kind = settings.get("tokenizer_class")
    if kind is not None and kind not in BYTE_LEVEL:
        yield warning(
            "tokenizer-class", SETTINGS, ["transformers 4"],
            f"tokenizer_class is {kind!r}: transformers 4 knows no such class, or one of another kind, and fails",
            "set it to CodeGenTokenizer",
        )  # fmt: skip
    if settings.get("clean_up_tokenization_spaces"):
        yield warning(
            "clean-up", SETTINGS, ["transformers 4"],
            "clean_up_tokenization_spaces is true: transformers 4 takes the space out of ' .' and \" n't\" in code "
            "that it decodes, silently",
            "set it to false",
        )  # fmt: skip
    if shape is not None:
        length = settings.get("model_max_length")
        if length != shape.context:
            unbounded = length is None or length > shape.context
            consequence = (
                "does not warn of longer texts, nor cut them" if unbounded else "cuts texts that the model can read"
            )
            yield warning(
                "max-length", SETTINGS, ["transformers"],
                f"model_max_length is {'missing' if length is None else length}, the context {shape.context}: "
                f"transformers {consequence}",
                f"set it to {shape.context}",
            )  # fmt: skip


def _end(
    vocabulary: dict[str, int],
    settings: dict[str, Any],
    special: dict[str, Any],
    config: dict[str, Any],
    generation: dict[str, Any],
) -> Iterator[Finding]:
    """The end of a text: transformers and MLX stop at the configs' id, TGI and vLLM at the tokenizer's token."""
    default = "<|endoftext|>" if settings.get("tokenizer_class", GPT_2_LIKE[0]) in GPT_2_LIKE else None
    token = settings.get("eos_token") or special.get("eos_token") or default
    if isinstance(token, dict):
        token = token["content"]
    if token is None:
        yield warning(
            "end-token", SETTINGS, ["TGI", "vLLM"], "names no eos_token: TGI and vLLM have nothing to stop at",
            "set it to <|endoftext|>",
        )  # fmt: skip
        return
    if token not in vocabulary:
        yield warning(
            "end-token", SETTINGS, ["transformers"],
            f"eos_token {token!r} is not in the vocabulary: transformers adds it behind, where the model never goes",
            "set it to <|endoftext|>",
        )  # fmt: skip
        return
    ends = {CONFIG: ids_of(config.get("eos_token_id")), GENERATION: ids_of(generation.get("eos_token_id"))}
    said = {place: ids for place, ids in ends.items() if ids}
    if any(vocabulary[token] not in ids for ids in said.values()):
        written = ", ".join(f"{ids[0] if len(ids) == 1 else ids} in {place}" for place, ids in said.items())
        yield warning(
            "end-differs", CONFIG, ["transformers", "MLX", "TGI", "vLLM"],
            f"eos_token_id is {written}, but {vocabulary[token]} in the tokenizer: transformers and MLX stop at the "
            "former, TGI and vLLM at the latter",
            f"set it to {vocabulary[token]}, if that was meant",
        )  # fmt: skip
