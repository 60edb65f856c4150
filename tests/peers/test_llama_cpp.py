"""Our GGUF files in llama.cpp (through llama-cpp-python), on the CPU: logits, greedy texts, tokens.

`pytest tests/peers/test_llama_cpp.py -s` prints the largest differences. Most of what the logits differ by is
llama.cpp's GELU, a table of float16 entries: with the same table in our forward, 3.2e-3 became 0.8e-3.
"""

import gzip
import hashlib
import itertools
import json
import random

import jax
import numpy as np
import pytest
import tokenizers
from conftest import require
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from phi_jax.model import phi
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.tokens import tokenizer
from phi_jax.weights.gguf import write_gguf
from phi_jax.weights.huggingface import export_model, load_directory

pytestmark = pytest.mark.peers

BAR = 5e-3  # of a float32 logit
TIE = 2 * BAR  # two logits so close may change places while each stays within the bar
NEW = 64  # tokens
SHAPES = {
    "small": phi.PhiConfig(640, 96, 384, 3, 4, head_dim=24, rotary_dim=12, max_seq_len=256),
    "heads of phi-2": phi.PhiConfig(
        640, 160, 500, 2, 2, head_dim=80, rotary_dim=32, max_seq_len=256, rope_theta=5000.0, layer_norm_eps=1e-3
    ),
}
TEXT = "def f(x):\n    return [i * i for i in range(x)]\n\n\nclass A:\n\tdef g(self):\n\t\treturn 'é'\n"


@pytest.fixture(scope="module")
def llama_cpp():
    require("llama_cpp", "gguf")
    import llama_cpp

    return llama_cpp


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train([TEXT * 20], 320)


@pytest.fixture(scope="module")
def export(llama_cpp, trained, tmp_path_factory):
    """Exports random weights and opens their GGUF file: -> (directory, llama)."""
    root = tmp_path_factory.mktemp("gguf")
    trained.save(root / "tokenizer", max_length=256)

    def make(config, dtype="float32", tokenizer_directory=root / "tokenizer", end=trained.end_of_text_id, **options):
        leaves, tree = jax.tree.flatten(phi.abstract_params(config))
        rng = np.random.default_rng(0)
        params = tree.unflatten([(0.12 * rng.standard_normal(x.shape)).astype(np.float32) for x in leaves])
        for norm in (params["layers"]["norm"], params["final_norm"]):
            norm["scale"] += 1.0
        params["head"]["bias"][trained.vocab_size :] = -20.0  # what pads the vocabulary is never said
        directory = root / f"model-{len(list(root.iterdir()))}"
        read_leaf = params
        export_model(
            read_leaf, config, directory, tokenizer_directory=tokenizer_directory, end_of_text_id=end, dtype=dtype
        )
        write_gguf(directory, directory / "model.gguf")
        options = {"n_ctx": 256, "n_batch": 256, "n_ubatch": 256, "logits_all": True} | options
        llama = llama_cpp.Llama(
            str(directory / "model.gguf"), n_threads=1, n_threads_batch=1, verbose=False,  # so small: more lose time
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, **options,
        )  # fmt: skip
        return directory, llama

    return make


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def opened(request, export):
    return *export(SHAPES[request.param]), SHAPES[request.param]


@pytest.fixture(scope="module")
def prompts(trained):
    """Token ids without <|endoftext|>: 50 prompts, the shortest and the longest lengths among them."""
    rng = np.random.default_rng(1)
    lengths = [1, 2, 63, 64, 65, 128, 192, *rng.integers(3, 190, 43)]
    allowed = np.setdiff1d(np.arange(trained.vocab_size), trained.end_of_text_id)
    return [rng.choice(allowed, n).tolist() for n in lengths]


def logits_of(llama, tokens):
    """[tokens, vocab] float32."""
    llama.reset()
    llama.eval(tokens)
    return llama.scores[: len(tokens)].copy()


def test_logits_are_ours_and_transformers(transformers, opened, trained):
    import torch

    directory, llama, config = opened
    params, _ = load_directory(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).float().eval()
    forward = jax.jit(phi.forward, static_argnames="config")
    rng = np.random.default_rng(2)
    ours = theirs = largest = 0.0
    for length in (1, 2, 3, 31, 32, 33, 100, 200, 255, 256):
        prompt = rng.integers(0, config.vocab_size, length)
        logits = logits_of(llama, prompt.tolist())
        padded = np.zeros((1, config.max_seq_len), np.int32)  # one compilation
        padded[0, :length] = prompt
        ours = max(ours, np.abs(logits - np.asarray(forward(params, padded, config=config))[0, :length]).max())
        with torch.no_grad():
            reference = model(torch.tensor(prompt[None])).logits[0].numpy()
        theirs = max(theirs, np.abs(logits - reference).max())
        largest = max(largest, np.abs(logits[:, : trained.vocab_size]).max())
    print(f"\nlogits of llama.cpp: {ours:.2e} from ours, {theirs:.2e} from transformers', of {largest:.2f}")
    assert max(ours, theirs) < BAR
    assert largest > 3


def test_greedy_texts_are_equal_or_part_at_a_tie(export, prompts, trained):
    """64 tokens a prompt; where one differs, llama.cpp must have been undecided, and it is listed."""
    config = SHAPES["small"]
    directory, llama = export(config)
    end = trained.end_of_text_id
    sampler = Sampler(load_directory(directory)[0], config, end_of_text_id=end, max_new_tokens=NEW, slots=25)
    completions = dict(sampler.complete([Request(p, i) for i, p in enumerate(prompts)]))
    undecided, distinct = [], set()
    for number, prompt in enumerate(prompts):
        completion = completions[number]
        said = itertools.islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), NEW)
        reference = list(itertools.takewhile(lambda token: token != end, said))
        distinct.add(tuple(reference))
        if completion.tokens == reference:
            assert llama.detokenize(reference).decode(errors="replace") == trained.decode(completion.tokens)
            continue
        pairs = itertools.zip_longest(completion.tokens, reference)
        place = next(i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
        second, first = np.sort(logits_of(llama, prompt + reference[:place])[-1])[-2:]
        undecided.append((number, place, round(float(first - second), 5)))
        assert first - second < TIE, f"prompt {number} differs at token {place}, gap {first - second}"
    print(f"\n50 prompts, {len(distinct)} different texts; differences (prompt, place, gap): {undecided}")
    assert len(prompts) == 50
    assert len(distinct) > 40, "the prompts do not matter"
    assert len(undecided) <= 10


@pytest.mark.parametrize(("dtype", "bar"), [("float16", 1e-2), ("bfloat16", 1e-1)])
def test_narrow_files_compute_with_the_rounded_weights(export, dtype, bar):
    """llama.cpp rounds what enters a product to the dtype of its weights; hence bars as wide as those roundings."""
    config = SHAPES["small"]
    directory, llama = export(config, dtype)
    prompt = np.random.default_rng(3).integers(0, config.vocab_size, 200)
    ours = np.asarray(phi.forward(load_directory(directory)[0], prompt[None].astype(np.int32), config))[0]
    error = np.abs(logits_of(llama, prompt.tolist()) - ours).max()
    print(f"\n{dtype}: {error:.2e}")
    assert error < bar


# --- Tokens --------------------------------------------------------------------------------------------------

# What llama.cpp knows a tokenizer by, and the digest of microsoft/phi-2's ids for it (convert_hf_to_gguf.py).
SAMPLE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "
    "------======= нещо на Български ''''''```````"
    "\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, "
    "'D you like some tea? We'Ve a'lL"
)
PHI_2 = "fcace8b9cac38ce847670c970cd5892031a753a1ef381abd1d9af00f713da085"


@pytest.fixture(scope="module")
def codegen(shared_data):
    """CodeGen's tokenizer, which is phi-1's, from GPT-2's files."""
    files = (str(shared_data / "tokenizer" / name) for name in ("encoder.json", "vocab.bpe"))
    backend = tokenizers.Tokenizer(models.BPE.from_file(*files))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=True)])
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    backend.add_tokens([AddedToken(run, normalized=True) for run in runs])
    assert backend.get_vocab_size() == 50295
    assert hashlib.sha256(str(backend.encode(SAMPLE).ids).encode()).hexdigest() == PHI_2
    return backend


@pytest.fixture(scope="module")
def vocabulary(export, codegen, tmp_path_factory):
    """llama.cpp with that tokenizer, in an embedding of phi-1's 51,200 rows."""
    directory = tmp_path_factory.mktemp("codegen")
    codegen.save(str(directory / "tokenizer.json"))
    config = phi.PhiConfig(51200, 8, 8, 1, 1, head_dim=8, rotary_dim=4, max_seq_len=2048)
    return export(config, tokenizer_directory=directory, end=50256, vocab_only=True, n_batch=1, logits_all=False)[1]


def differing(llama, backend, texts):
    """The texts that llama.cpp cuts otherwise, with <|endoftext|> as text and as a token."""
    found = []
    for special in (False, True):
        backend.encode_special_tokens = not special
        expected = backend.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, expected, strict=True):
            if llama.tokenize(text.encode(), add_bos=False, special=special) != encoding.ids:
                found.append(text)
    return found


def test_benchmark_texts_are_tokenised_alike(vocabulary, codegen, shared_data):
    with gzip.open(shared_data / "eval" / "HumanEval.jsonl.gz", "rt") as file:
        humaneval = [json.loads(line) for line in file]
    mbpp = [json.loads(line) for line in (shared_data / "eval" / "mbpp.jsonl").read_text().splitlines()]
    assert (len(humaneval), len(mbpp)) == (164, 974)
    texts = [problem["prompt"] + problem["canonical_solution"] + problem["test"] for problem in humaneval]
    texts += [problem["prompt"] for problem in humaneval]
    for problem in mbpp:
        tests = "\n".join([problem["test_setup_code"], *problem["test_list"], *problem["challenge_test_list"]])
        texts += [problem["text"], problem["code"], tests]
    assert differing(vocabulary, codegen, texts) == []


def test_hard_texts_are_tokenised_alike(vocabulary, codegen):
    edges = ("", "x", "\n", "'s", "9", ".")
    texts = [a + run * n + b for run in (" ", "\t") for n in range(1, 66) for a in edges for b in edges]
    texts += [
        SAMPLE,
        "<|endoftext|>",
        " <|endoftext|>  x<|endoftext|>",
        "[PAD50295]",
        "\r\n\r\nx\r\n  y\r",
        "\x00 \x85a",
    ]
    rng = random.Random(0)
    texts += ["".join(rng.choices(" \t\n\r\v\f\u00a0\u2003x1.é'", k=rng.randrange(60))) for _ in range(1000)]
    # 20,000 code points of all planes, assigned or not, within words, doubled, after a space and before a digit.
    points = [chr(c) for c in rng.sample(range(0x110000), 20_000) if not 0xD800 <= c < 0xE000]
    texts += ["".join(f"a{c}b{c}{c} {c}1" for c in points[i : i + 50]) for i in range(0, len(points), 50)]
    assert differing(vocabulary, codegen, texts) == []


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \t\n'")), max_size=60))
def test_any_text_is_tokenised_alike(vocabulary, codegen, text):
    assert differing(vocabulary, codegen, [text]) == []


def test_a_vocabulary_of_ours_is_tokenised_alike(export, trained):
    directory, llama = export(SHAPES["small"], vocab_only=True)
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = [SAMPLE, TEXT, TEXT * 3, TEXT.replace(" ", "  ").replace("\t", "\t" * 11), "<|endoftext|>é\r\n"]
    assert differing(llama, backend, texts) == []
    assert llama.tokenize(TEXT.encode(), add_bos=True) == trained.encode(TEXT)
    assert llama.token_eos() == llama.token_bos() == trained.end_of_text_id
