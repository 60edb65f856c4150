"""CodeGen's tokenizer beside `tokenizers` at full size: 100,000 random texts, all files, every character.

Writes tokenizer_ids.json. Takes five minutes of CPU.
"""

import datetime
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from test_tokenizer import UNICODE, benchmark_texts, ids_of, reference_of, standard_library

from phi_jax.store.artifact import versions
from phi_jax.tokens.tokenizer import Tokenizer

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]
EXAMPLES = 100_000


def test_ids_are_equal(shared_data):
    codegen, reference = Tokenizer.load(shared_data / "tokenizer"), reference_of(shared_data)
    assert (codegen.vocab_size, codegen.core) == (50_295, "tiktoken")
    begin = time.monotonic()
    result = {"entries": codegen.vocab_size, "core": codegen.core, "unequal": 0}
    for name, texts in (
        ("HumanEval and MBPP", benchmark_texts(shared_data)),
        ("standard library", standard_library()),
        ("every character, in places where its class decides", every_character()),
    ):
        assert codegen.encode_batch(texts) == ids_of(reference, texts)
        result[name] = {"texts": len(texts), "bytes": sum(len(t.encode()) for t in texts)}

    lengths = []

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(UNICODE)
    def compare(text):
        ids = codegen.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False).ids
        assert codegen.decode(ids) == text
        lengths.append(len(text.encode()))

    compare()
    assert len(lengths) >= EXAMPLES
    result["random Unicode with runs of spaces and tabs"] = {"texts": len(lengths), "bytes": sum(lengths)}
    result["seconds"] = round(time.monotonic() - begin)
    about = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "versions": versions()}
    Path(__file__).with_name("tokenizer_ids.json").write_text(json.dumps({**about, **result}, indent=2) + "\n")


def every_character():
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    return ["".join(f"x{c}1{c} {c}." for c in characters[i : i + 1000]) for i in range(0, len(characters), 1000)]
