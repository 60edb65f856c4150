"""Byte-level BPE as CodeGen has it: GPT-2's pre-tokenisation and tokens for runs of spaces and tabs."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import tiktoken
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from phi_jax.errors import UserError
from phi_jax.store.cores import cores
from phi_jax.tokens import fast_core, tokenizer_files
from phi_jax.tokens.tokenizer_files import END_OF_TEXT, WHITESPACE_RUNS


class Tokenizer:
    """Text to ids and back; decode(encode(text)) == text for any text.

    backend: what defines the ids. They are computed by tiktoken, several times as fast, where that is proved to give
    the same ones (fast_core.py).
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        # A literal "<|endoftext|>" in a document is text like any other: only the code that joins documents may
        # place the token of that name.
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self.end_of_text_id: int = backend.get_vocab()[END_OF_TEXT]
        # Of ids, not of tokens: a vocabulary may have gaps.
        self.vocab_size: int = max(backend.get_vocab().values()) + 1

    @functools.cached_property
    def fast(self) -> tuple[tiktoken.Encoding | None, str]:
        """tiktoken's encoding where it gives the same ids, else None and the reason."""
        return fast_core.fast_core(self.backend)

    @property
    def core(self) -> str:
        """What computes the ids: "tiktoken" or "tokenizers"; equal either way."""
        return "tokenizers" if self.fast[0] is None else "tiktoken"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises UserError for a lone surrogate, which is no text in UTF-8."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores. Raises as `encode` does."""
        # Left to themselves, one core raises a TypeError and the other encodes U+FFFD.
        try:
            for text in texts:
                text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"a text holds a lone surrogate, U+{ord(error.object[error.start]):04X} at character {error.start}, "
                "which is no text in UTF-8; decode its bytes with errors='replace'"
            ) from None
        encoding, _ = self.fast
        if encoding is None or any(map(fast_core.is_beyond, texts)):
            return [e.ids for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        if 1 in (cores(), len(texts)):  # handing texts to a thread costs a fifth of the time
            return [encoding.encode_ordinary(text) for text in texts]
        return encoding.encode_ordinary_batch(list(texts), num_threads=cores())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; <|endoftext|> shows as such, and bytes that are no UTF-8 as U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def save(self, directory: Path, *, max_length: int) -> None:
        """Writes the files that transformers (4 and 5), tokenizers, llama.cpp and others read.

        max_length: tokens of context, which transformers warns beyond.
        """
        tokenizer_files.write(self.backend, Path(directory), max_length=max_length)

    @classmethod
    def load(cls, source: Path) -> Tokenizer:
        """Reads a directory with tokenizer.json, or with vocabulary and merges, or a tokenizer.json by path.

        Raises UserError where files are missing or damaged, hold no byte-level BPE, or one that lacks <|endoftext|>.
        """
        return cls(tokenizer_files.read(Path(source)))

    @classmethod
    def named(cls, name: str) -> Tokenizer:
        """What `load` reads, by its path, or by the name of a model on the Hugging Face Hub, OWNER/NAME.

        Raises UserError as `load` does, and where neither is to be had.
        """
        return cls.load(Path(name) if os.path.exists(name) else tokenizer_files.download(name))

    @classmethod
    def at_hand(cls, name: str) -> Tokenizer | None:
        """What `named` gives, where it is here; None where the Hub has it. Fetches nothing; raises as `named` does."""
        if os.path.exists(name):
            return cls.load(Path(name))
        return cls.load(cached) if (cached := tokenizer_files.look_up(name)) else None


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns a byte-level BPE of `vocab_size` entries in all: every byte, <|endoftext|>, the runs, and merges.

    Texts too short for as many merges give a smaller vocabulary.
    """
    learnt = tokenizers.Tokenizer(models.BPE())
    # While learning, the runs are cut out: they have tokens of their own, and merges for them would be wasted.
    runs = pre_tokenizers.Split(Regex(r" {2,31}|\t{2,9}"), behavior="removed")
    learnt.pre_tokenizer = pre_tokenizers.Sequence([runs, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1 - len(WHITESPACE_RUNS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learnt.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer_files.byte_level(learnt.model))
