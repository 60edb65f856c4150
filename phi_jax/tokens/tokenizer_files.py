"""The files of a byte-level BPE tokenizer, as they are published and as other programs read them.

CodeGen's tokenizer is GPT-2's with tokens for runs of whitespace behind it. Order of ids, as in codegen-350M-mono: the
base BPE with <|endoftext|> last, then runs of 31..2 spaces, then runs of 9..2 tabs (salesforce/CodeGen,
codegen1/jaxformer/hf/sample.py, include_whitespace and include_tabs).
"""

import contextlib
import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from phi_jax.errors import UserError
from phi_jax.store.artifact import Json, write_atomic, write_json
from phi_jax.store.hub import asking

END_OF_TEXT = "<|endoftext|>"
WHITESPACE_RUNS = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
# Of vocabulary and merges: the names of today, and GPT-2's first ones.
_VOCABULARY_AND_MERGES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# All that is ever fetched of a model.
PUBLISHED_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")


def byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in vocabularies of this kind: printable ones for themselves, those from 256
    on for the others, in their order (GPT-2's encoder.py, bytes_to_unicode).
    """
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = {character: ord(character) for character in characters if ord(character) < 256}
    others = sorted({*range(256)} - {*printable.values()})
    return printable | dict(zip(characters[len(printable) :], others, strict=True))


def read(source: Path) -> tokenizers.Tokenizer:
    """A byte-level BPE from a tokenizer.json, from a directory that holds one, or from vocabulary and merges.

    Where the directory holds vocab.json and merges.txt alone (or GPT-2's encoder.json and vocab.bpe), it is CodeGen's
    tokenizer: the runs of whitespace follow behind the vocabulary.
    Raises UserError where files are missing or damaged, hold another kind of tokenizer, or one without <|endoftext|>.
    """
    path = source / "tokenizer.json" if source.is_dir() else source
    pairs = [(source / v, source / m) for v, m in _VOCABULARY_AND_MERGES]
    pairs = [pair for pair in pairs if all(file.is_file() for file in pair)]
    if not path.is_file() and not pairs:
        raise UserError(
            f"{path}: no such file, and no vocab.json with merges.txt beside it; a model directory holds its tokenizer"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path)) if path.is_file() else _from_vocabulary(*pairs[0])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and where it panics one that is none
        raise UserError(f"{source}: not a tokenizer ({error}); get a good copy with tokenizer.json") from None
    if not isinstance(backend.model, models.BPE) or "ByteLevel" not in repr(backend.pre_tokenizer):
        raise UserError(f"{source}: not a byte-level BPE, so not every text comes back; use another tokenizer")
    if len({*(vocabulary := backend.get_vocab()).values()}) < len(vocabulary):
        raise UserError(f"{source}: two tokens of its vocabulary have one id; get a good copy")
    if END_OF_TEXT not in vocabulary:
        raise UserError(f"{source}: has no {END_OF_TEXT} token, so documents cannot be joined; use another tokenizer")
    if any(t.content == END_OF_TEXT and not t.special for t in backend.get_added_tokens_decoder().values()):
        raise UserError(
            f"{source}: {END_OF_TEXT} is an added token that is not special, so a text that spells it would end there; "
            'set "special": true in its entry of added_tokens'
        )
    return backend


def _from_vocabulary(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    backend = byte_level(models.BPE.from_file(str(vocabulary), str(merges)))
    beside = vocabulary.with_name("added_tokens.json")
    added = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    if any(backend.token_to_id(token) != number for token, number in added.items()):
        raise ValueError(f"{beside.name} has other tokens, or other ids, than CodeGen's")
    return backend


def byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    """CodeGen's tokenizer over a BPE of bytes: texts are cut as GPT-2 does; the runs get the next ids."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    backend.add_tokens([AddedToken(run, normalized=True) for run in WHITESPACE_RUNS])
    return backend


def download(name: str) -> Path:
    """The directory of the tokenizer files of a model on the Hugging Face Hub, fetched where they are not here yet.

    Raises UserError for what is no name there, and where the Hub does not have it or cannot be reached.
    """
    import huggingface_hub

    with _asking(name):
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(PUBLISHED_FILES)))


def look_up(name: str) -> Path | None:
    """As `download`, but fetches nothing: None where the Hub has the model and the files are not here yet."""
    import huggingface_hub

    with contextlib.suppress(Exception):  # as below
        found = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        if (found / "tokenizer.json").exists() or (found / "vocab.json").exists():
            return found
    with _asking(name):
        huggingface_hub.HfApi().model_info(name)
    return None


def _asking(name: str) -> contextlib.AbstractContextManager[None]:
    return asking(
        f"{name}: neither a directory here nor",
        "give a directory with tokenizer.json, or with vocab.json and merges.txt",
    )


def write(backend: tokenizers.Tokenizer, directory: Path, *, max_length: int) -> None:
    """Writes the files that transformers (4 and 5, fast and slow), tokenizers, llama.cpp and others read.

    max_length: tokens of context, which transformers warns beyond. A tokenizer that is not of GPT-2's form has no
    vocab.json: who reads that would cut texts in GPT-2's way.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = json.loads(backend.to_str())
    # Pairs would be a newer notation that old readers fail on.
    merges = state["model"]["merges"] = [" ".join(pair) for pair in state["model"]["merges"]]
    write_json(directory / "tokenizer.json", state)
    of_gpt2 = not why_not_gpt2(state)
    if of_gpt2:
        vocabulary = state["model"]["vocab"]
        # As in GPT-2's own file, the end of a text belongs to the base; what slow tokenizers add comes after it.
        vocabulary.setdefault(END_OF_TEXT, backend.get_vocab()[END_OF_TEXT])
        write_json(directory / "vocab.json", dict(sorted(vocabulary.items(), key=lambda item: item[1])))
        write_atomic(directory / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
        added = {t["content"]: t["id"] for t in state["added_tokens"] if t["content"] not in vocabulary}
        write_json(directory / "added_tokens.json", added)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    write_json(directory / "special_tokens_map.json", special)
    write_json(
        directory / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in state["added_tokens"]
            },
            **special,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            "tokenizer_class": "CodeGenTokenizer" if of_gpt2 else "PreTrainedTokenizerFast",
        },
    )


def why_not_gpt2(state: Json) -> str:
    """What makes a tokenizer, as in tokenizer.json, another kind than GPT-2's and CodeGen's; "" where nothing does."""
    added = [t for t in state["added_tokens"] if not t["special"]]
    # Runs of which some are normalized would be cut out in two rounds.
    forms = {(t["lstrip"], t["rstrip"], t["single_word"], t["normalized"]) for t in added}
    as_codegen = sorted(t["content"] for t in added) == sorted(WHITESPACE_RUNS) and (
        forms in ({(False, False, False, True)}, {(False, False, False, False)})
    )
    return why_cut_otherwise(state) or ("" if as_codegen or not added else "it has added tokens other than CodeGen's")


def why_cut_otherwise(state: Json) -> str:
    """The same, added tokens aside: why texts are not cut and merged in GPT-2's way."""
    model, cutting = state["model"], state["pre_tokenizer"] or {}
    described = ("type", "vocab", "merges", "unk_token", "fuse_unk")  # where every byte has an entry, none is unknown
    options = sorted(name for name, value in model.items() if value and name not in described)
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    if options:
        return f"its BPE has {', '.join(options)}"
    if state["normalizer"] is not None:
        return f"it normalizes ({state['normalizer']['type']})"
    if cutting.get("type") != "ByteLevel" or not cutting.get("use_regex", True):
        return "it does not cut texts as GPT-2 does"
    return "it puts a space before each text" if cutting["add_prefix_space"] else ""
