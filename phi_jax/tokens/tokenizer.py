"""Byte-level BPE as CodeGen has it: GPT-2's pre-tokenisation and tokens for runs of spaces and tabs.

Order of ids, as in codegen-350M-mono: the base BPE with <|endoftext|> last, then runs of 31..2 spaces, then runs of
9..2 tabs (salesforce/CodeGen, codegen1/jaxformer/hf/sample.py, include_whitespace and include_tabs).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from phi_jax.artifact import write_atomic, write_json
from phi_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"
WHITESPACE_RUNS = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
SMALLEST_VOCABULARY = 256 + 1 + len(WHITESPACE_RUNS)  # every byte, <|endoftext|>, the runs


class Tokenizer:
    """Text to ids and back; decode(encode(text)) == text for any text."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        # A literal "<|endoftext|>" in a document is text like any other: only the code that joins documents may
        # place the token of that name.
        self._backend.encode_special_tokens = True
        end_of_text_id = backend.token_to_id(END_OF_TEXT)
        if end_of_text_id is None:
            raise ValueError(f"the tokenizer has no {END_OF_TEXT} token")
        self.end_of_text_id: int = end_of_text_id
        self.vocab_size: int = backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; <|endoftext|> shows as such, and bytes that are no UTF-8 as U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens=False)

    def save(self, directory: Path, *, max_length: int) -> None:
        """Writes the files that transformers (4 and 5), tokenizers, llama.cpp and others read.

        max_length: tokens of context, which transformers warns beyond.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        state = json.loads(self._backend.to_str())
        # Pairs would be a newer notation that old readers fail on.
        merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
        state["model"]["merges"] = merges
        write_json(directory / "tokenizer.json", state)
        write_json(directory / "vocab.json", dict(sorted(state["model"]["vocab"].items(), key=lambda x: x[1])))
        write_atomic(directory / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
        special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
        write_json(directory / "special_tokens_map.json", special)
        added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in state["added_tokens"]}
        write_json(
            directory / "tokenizer_config.json",
            {
                "add_prefix_space": False,
                "added_tokens_decoder": added,
                **special,
                "clean_up_tokenization_spaces": False,
                "model_max_length": max_length,
                "tokenizer_class": "CodeGenTokenizer",
            },
        )

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Reads tokenizer.json. Raises UserError where it is missing, damaged, or lacks <|endoftext|>."""
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path}: no such file; a model directory holds its tokenizer")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path}: not a tokenizer ({error}); get a good copy") from None
        if backend.token_to_id(END_OF_TEXT) is None:
            raise UserError(f"{path}: has no {END_OF_TEXT} token, so documents cannot be joined; use another tokenizer")
        return cls(backend)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns a byte-level BPE of `vocab_size` entries in all. Raises UserError for a size that is too small.

    Texts too short for as many merges give a smaller vocabulary.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"config.tokenize.vocab_size={vocab_size}: must be at least {SMALLEST_VOCABULARY}")
    backend = tokenizers.Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # While learning, the runs are cut out: they have tokens of their own, and merges for them would be wasted.
    runs = pre_tokenizers.Split(Regex(r" {2,31}|\t{2,9}"), behavior="removed")
    backend.pre_tokenizer = pre_tokenizers.Sequence([runs, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1 - len(WHITESPACE_RUNS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    backend.add_tokens([AddedToken(run, special=False, normalized=True) for run in WHITESPACE_RUNS])
    return Tokenizer(backend)
