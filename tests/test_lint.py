"""`phi-jax lint`: silent on a good directory; every defect planted in one is named, in one line, with its remedy."""

import contextlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from running import ROOT, phi_jax
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.tokens import tokenizer
from phi_jax.weights.huggingface import export_model
from phi_jax.weights.lint import lint
from phi_jax.weights.lint.config import lint_config, read_shape
from phi_jax.weights.lint.finding import EVERYBODY
from phi_jax.weights.lint.tensors import expected_tensors

SHAPE = phi.PhiConfig(
    vocab_size=352, hidden_size=32, intermediate_size=128, num_layers=2,
    num_heads=2, head_dim=16, rotary_dim=8, max_seq_len=64,
)  # fmt: skip
CODE = "def f(x):\n    return [i * i for i in range(x)]\n" * 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer, saved with all its files."""
    directory = tmp_path_factory.mktemp("tokenizer")
    learnt = tokenizer.train([CODE], 320)
    learnt.save(directory, max_length=SHAPE.max_seq_len)
    return directory, learnt.end_of_text_id


def export(trained, directory, shape=SHAPE, dtype="float32"):
    leaves, tree = jax.tree.flatten(phi.abstract_params(shape))
    rng = np.random.default_rng(0)
    params = tree.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])
    source, end = trained
    export_model(
        params, shape, directory,
        tokenizer_directory=source, end_of_text_id=end, dtype=dtype,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def model(exported, tmp_path):
    """A good directory to plant a defect in."""
    return shutil.copytree(exported, tmp_path / "model")


@pytest.fixture
def sharded(model):
    """The same in two shards: lm_head and the embedding in the first."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    files = {FIRST: sorted(tensors)[:4], SECOND: sorted(tensors)[4:]}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, model / file, metadata={"format": "pt"})
    write(
        model / INDEX,
        {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {name: file for file, names in files.items() for name in names},
        },
    )
    return model


INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def read(path):
    return json.loads(path.read_text())


def write(path, content):
    path.write_text(json.dumps(content))


def change(path, *missing, **values):
    content = {**read(path), **values}
    write(path, {field: value for field, value in content.items() if field not in missing})


TORCH = {"format": "pt"}


def change_tensors(path, change, metadata=TORCH):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def only(directory):
    """The one finding of a directory, as (severity, rule, line)."""
    findings = lint(directory)
    assert len(findings) == 1, [str(finding) for finding in findings]
    finding = findings[0]
    assert_readable(finding)
    return finding.severity, finding.rule, str(finding)


def assert_readable(finding):
    line = str(finding)
    assert "\n" not in line
    assert line.startswith(f"{finding.severity} {finding.place}: ")
    assert finding.remedy
    assert line.endswith(f"; {finding.remedy}")
    assert finding.clients
    if finding.severity == "error":
        assert finding.clients == EVERYBODY
    else:
        assert all(client in finding.problem for client in finding.clients), finding


# --- Nothing to find -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_good_export_has_no_findings(trained, tmp_path, dtype):
    assert lint(export(trained, tmp_path / "model", dtype=dtype)) == []


def test_good_shards_have_no_findings(sharded):
    assert lint(sharded) == []


def test_awkward_but_good_shapes_have_no_findings(trained, tmp_path):
    """One head; all of it rotated; and 30 of 44, whose factor rounds badly."""
    for number, (heads, head_dim, rotary_dim) in enumerate([(1, 32, 32), (2, 44, 30)]):
        width = heads * head_dim
        shape = phi.PhiConfig(352, width, 4 * width, 1, heads, head_dim, rotary_dim, SHAPE.max_seq_len)
        assert lint(export(trained, tmp_path / str(number), shape)) == []


def test_what_others_write_too_is_no_finding(model):
    """added_tokens.json, no generation_config.json (transformers 4 and 5 take the ids of config.json), a model card."""
    state = read(model / "tokenizer.json")
    end = read(model / "config.json")["eos_token_id"]
    write(model / "added_tokens.json", {t["content"]: t["id"] for t in state["added_tokens"] if t["id"] != end})
    (model / "generation_config.json").unlink()
    (model / "README.md").write_text("# A model\n")
    change(model / "config.json", "head_dim", "rope_parameters", "dtype", transformers_version="4.37.0")
    assert lint(model) == []


PHI_1 = {  # microsoft/phi-1, config.json
    "_name_or_path": "microsoft/phi-1", "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": None, "embd_pdrop": 0.0, "eos_token_id": None, "hidden_act": "gelu_new", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 8192, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": None,
    "partial_rotary_factor": 0.5, "qk_layernorm": False, "resid_pdrop": 0.0, "rope_scaling": None,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.37.0",
    "use_cache": True, "vocab_size": 51200,
}  # fmt: skip


def test_the_published_phi_1_has_its_two_warnings(trained, tmp_path):
    """Its config.json with smaller sizes, so that weights of them are small, in a directory that is good otherwise."""
    shape = phi.PhiConfig(352, 128, 512, 2, 32, 4, 2, SHAPE.max_seq_len)
    sizes = {
        "vocab_size": 352, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
        "max_position_embeddings": SHAPE.max_seq_len,
    }  # fmt: skip
    directory = export(trained, tmp_path / "phi-1", shape, dtype="float16")
    write(directory / "config.json", PHI_1 | sizes)
    write(directory / "generation_config.json", {"_from_model_config": True, "transformers_version": "4.37.0"})
    expected = [
        "warning config.json: bos_token_id and eos_token_id are null: generation in transformers never stops; "
        "set it to the id of <|endoftext|>",
        "warning config.json: num_key_value_heads is null: TGI before 2.1 divides by it and fails; set it to 32",
    ]
    assert [str(finding) for finding in lint(directory)] == expected
    findings = []
    shape = read_shape(PHI_1, findings)
    assert [str(f) for f in (*findings, *lint_config(PHI_1, None, shape))] == expected


def codegen(trained, directory):
    """A CodeGen directory of random weights; its tensors as transformers' CodeGenForCausalLM names them."""
    config = {
        "architectures": ["CodeGenForCausalLM"], "model_type": "codegen", "vocab_size": 352, "n_embd": 32, "n_layer": 2,
        "n_head": 4, "n_positions": SHAPE.max_seq_len, "n_ctx": SHAPE.max_seq_len, "n_inner": None, "rotary_dim": 4,
        "activation_function": "gelu_new", "bos_token_id": 1, "eos_token_id": trained[1], "torch_dtype": "float16",
    }  # fmt: skip
    shutil.copytree(trained[0], directory)
    write(directory / "config.json", config)
    tensors = {name: np.ones(size, np.float16) for name, size in expected_tensors(read_shape(config, [])).items()}
    tensors["transformer.h.0.attn.causal_mask"] = np.ones((1, 1, 8, 8), np.uint8)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_codegen_is_checked_as_well(trained, tmp_path):
    directory = codegen(trained, tmp_path / "codegen")
    assert lint(directory) == []
    change_tensors(directory / "model.safetensors", lambda t: t.pop("transformer.h.1.attn.qkv_proj.weight"))
    assert only(directory)[:2] == ("error", "tensor-missing")
    change(directory / "config.json", n_layer=1)
    assert only(directory)[:2] == ("warning", "tensor-unknown")


# --- config.json ---------------------------------------------------------------------------------------------

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("missing", "values", "severity", "rule", "told"),
    [
        ((), {"num_key_value_heads": None}, "warning", "kv-heads", "TGI before 2.1 divides by it and fails; set it"),
        (("num_key_value_heads",), {}, "warning", "kv-heads", "MLX and TGI before 2.1 take 32; set it to 2"),
        ((), {"head_dim": None}, "error", "head-dim", "head_dim is null"),
        (("partial_rotary_factor",), {}, "warning", "rotary-missing", "level: MLX takes 0.4, silently; set it to 0.5"),
        ((), {"partial_rotary_factor": None}, "warning", "rotary-missing", "transformers 4, TGI, MLX compute with it"),
        ((), {"rope_theta": None}, "warning", "rotary-missing", "rope_theta is null"),
        ((), {"partial_rotary_factor": 0.25}, "error", "rotary-contradictory", "0.25 at the top level and 0.5 under"),
        ((), {"rope_theta": 10001.0}, "error", "rotary-contradictory", "rope_theta is 10001.0 at the top level"),
        (("rope_parameters",), {"partial_rotary_factor": 0.45}, "error", "rotary-dim", "rotates 7 numbers of a head"),
        (("rope_parameters",), {"partial_rotary_factor": 1.5}, "error", "rotary-dim", "rotates 24 numbers of a head"),
        (("rope_parameters",), {"rope_theta": 5000.0}, "warning", "rope-theta", "llama.cpp's converter drops it"),
        ((), {"rope_scaling": {"type": "linear", "factor": 2.0}}, "warning", "rope-scaling", "(linear)"),
        ((), {"rope_parameters": {**ROPE, "rope_type": "yarn"}}, "warning", "rope-scaling", "(yarn)"),
        ((), {"hidden_act": "gelu"}, "warning", "activation", "MLX and llama.cpp compute gelu_new"),
        (("bos_token_id", "eos_token_id"), {}, "warning", "token-ids", "transformers takes 1 and 2"),
        (("eos_token_id",), {}, "warning", "token-ids", "eos_token_id is missing: transformers takes 2"),
        ((), {"bos_token_id": 352}, "warning", "token-id-range", "bos_token_id is 352, outside the vocabulary of 352"),
        ((), {"eos_token_id": 5}, "warning", "end-differs", "is 5 in config.json"),
        ((), {"auto_map": {"AutoConfig": "configuration_phi.PhiConfig"}}, "warning", "remote-code", "auto_map"),
        ((), {"vocab_size": 351}, "error", "vocab-size", "model.embed_tokens.weight has 352 rows"),
        ((), {"vocab_size": "many"}, "error", "size", "vocab_size is 'many'"),
        ((), {"num_attention_heads": 0}, "error", "size", "num_attention_heads is 0"),
        ((), {"num_hidden_layers": 3}, "error", "tensor-missing", "layers.2.input_layernorm.weight and 13 others"),
        ((), {"num_hidden_layers": 1}, "warning", "tensor-unknown", "drops it, silently, MLX and vLLM fail"),
        ((), {"tie_word_embeddings": True}, "warning", "tied", "transformers 4 drops the model's own lm_head"),
        ((), {"torch_dtype": "float16"}, "warning", "dtype", "torch_dtype is float16, dtype float32"),
        (("dtype",), {"torch_dtype": "float16"}, "warning", "dtype", "the tensors are float32: transformers 5 rounds"),
    ],
)  # fmt: skip
def test_every_defect_of_the_config_is_named(model, missing, values, severity, rule, told):
    change(model / "config.json", *missing, **values)
    found = only(model)
    assert found[:2] == (severity, rule)
    assert told in found[2]


def test_defects_that_come_together(model):
    """Another inner width, grouped heads and norms of q and k fit no tensor of this model either."""
    for values, rules in (
        ({"intermediate_size": 100}, {"inner-size", "tensor-shape"}),
        ({"num_key_value_heads": 1}, {"kv-heads", "tensor-shape"}),
        ({"num_key_value_heads": 3}, {"kv-heads", "tensor-shape"}),
        ({"head_dim": 8}, {"head-dim", "tensor-shape"}),
        ({"qk_layernorm": True}, {"qk-layernorm", "tensor-missing"}),
        ({"partial_rotary_factor": "half"}, {"field", "rotary-missing"}),
        ({"rope_parameters": {**ROPE, "rope_theta": "10000"}}, {"field"}),
        ({"bos_token_id": None, "eos_token_id": None}, set()),  # generation_config.json has them
    ):
        original = read(model / "config.json")
        change(model / "config.json", **values)
        findings = lint(model)
        assert {finding.rule for finding in findings} == rules
        for finding in findings:
            assert_readable(finding)
        write(model / "config.json", original)


def test_a_missing_size_says_what_is_taken_for_it(model):
    change(model / "config.json", "intermediate_size")
    lines = [str(finding) for finding in lint(model) if finding.rule == "size-missing"]
    assert lines == ["warning config.json: intermediate_size is missing: transformers takes 8192, MLX 10240; set it"]


def test_a_factor_that_truncates_is_corrected(model):
    """30 of 44 by plain division: int() makes 29 of it. The factor that lint proposes gives 30."""
    change(model / "config.json", "rope_parameters", head_dim=44, partial_rotary_factor=30 / 44)
    finding = next(finding for finding in lint(model) if finding.rule == "rotary-dim")
    assert "rotates 29" in finding.problem
    factor = float(finding.remedy.removeprefix("set it to ").split(",")[0])
    assert int(44 * factor) == 30


@pytest.mark.parametrize(
    ("config", "end", "told"),
    [
        ({"bos_token_id": None, "eos_token_id": None}, None, "never stops"),
        ({"eos_token_id": None}, None, "eos_token_id is null"),
        ({}, [5, 6], "[5, 6] in generation_config.json"),
    ],
)
def test_ids_where_generation_config_does_not_help(model, config, end, told):
    change(model / "config.json", **config)
    change(model / "generation_config.json", eos_token_id=end)
    assert told in only(model)[2]


def test_several_ends_of_text_are_good(model):
    end = read(model / "config.json")["eos_token_id"]
    change(model / "generation_config.json", eos_token_id=[5, end])
    assert lint(model) == []


@pytest.mark.parametrize("kind", ["phi-msft", "mixformer-sequential"])
def test_the_first_releases_are_recognised(model, kind):
    change(model / "config.json", model_type=kind)
    assert only(model)[:2] == ("error", "early-format")


# --- The weights ---------------------------------------------------------------------------------------------


def widen(tensors):
    tensors.update({name: value.astype(np.float64) for name, value in tensors.items()})


@pytest.mark.parametrize(
    ("planted", "severity", "rule", "told"),
    [
        (lambda t: t.pop("lm_head.bias"), "error", "tensor-missing", "lm_head.bias missing"),
        (lambda t: t.update({"lm_head.bias": np.ones(3, np.float32)}), "error", "tensor-shape", "[3] instead of"),
        (lambda t: t.update(surplus=np.ones(3, np.float32)), "warning", "tensor-unknown", "surplus"),
        (
            lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}),
            "warning", "tensor-unknown", "a constant: MLX fails",
        ),
        (lambda t: t["lm_head.weight"].put(7, np.nan), "error", "not-finite", "lm_head.weight"),
        (lambda t: t["lm_head.weight"].put(-1, -np.inf), "error", "not-finite", "lm_head.weight"),
        (
            lambda t: t.update({"lm_head.bias": t["lm_head.bias"].astype(np.float16)}),
            "warning", "dtype-mixed", "float16 and float32: transformers 5 casts all to float32",
        ),
        (widen, "warning", "dtype", "is float32, the tensors are float64: transformers 5 rounds them"),
    ],
)  # fmt: skip
def test_every_defect_of_the_tensors_is_named(model, planted, severity, rule, told):
    change_tensors(model / "model.safetensors", planted)
    found = only(model)
    assert found[:2] == (severity, rule)
    assert told in found[2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_narrow_tensors_are_searched_too(trained, tmp_path, dtype, value):
    directory = export(trained, tmp_path / "model", dtype=dtype)
    change_tensors(directory / "model.safetensors", lambda t: t["model.final_layernorm.bias"].put(31, value))
    assert only(directory)[:2] == ("error", "not-finite")


def test_largest_and_smallest_numbers_are_finite(model):
    extremes = np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny, -0.0, 1e-45], np.float32)
    change_tensors(model / "model.safetensors", lambda t: t["lm_head.bias"].put(range(4), extremes))
    assert lint(model) == []


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (None, "early transformers 4 (4.37 among them) fails"),
        ({"format": "np"}, "metadata has the format 'np': transformers 4 fails"),
        ({"made": "by hand"}, "metadata has the format None: transformers 4 fails"),
    ],
)
def test_metadata(model, metadata, told):
    change_tensors(model / "model.safetensors", lambda t: None, metadata)
    assert only(model)[1] == "metadata"
    assert told in only(model)[2]


def test_dtypes_of_the_config(trained, tmp_path):
    directory = export(trained, tmp_path / "model", dtype="bfloat16")
    change(directory / "config.json", "torch_dtype")
    assert "early vLLM, which does not know dtype, serves float16" in only(directory)[2]
    change(directory / "config.json", dtype="float32")
    assert "transformers 5 takes more memory than they need" in only(directory)[2]
    change(directory / "config.json", dtype="float16")
    assert "transformers 5 rounds them, silently" in only(directory)[2]


def test_tied_without_a_head(model):
    change(model / "config.json", tie_word_embeddings=True)
    change_tensors(model / "model.safetensors", lambda t: t.pop("lm_head.weight"))
    assert "MLX misses lm_head, and vLLM refuses it" in only(model)[2]


def test_damaged_weights_are_named(model):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for content, told in (
        (whole[:-100], f"100 of {len(whole):,} bytes are missing, at the end: every client fails"),
        (whole[:50], "ends inside its header"),
        (b"", "ends inside its header"),
        (b"\xff" * 100, "ends inside its header"),
        (whole + b"more", "every client fails"),
        (whole[:8] + b"{" * length + whole[8 + length :], "every client fails"),
        (whole[:8] + b"[]".ljust(length) + whole[8 + length :], "every client fails"),
    ):
        path.write_bytes(content)
        found = only(model)
        assert found[:2] == ("error", "damaged")
        assert told in found[2]


def test_no_weights_and_pickles(model):
    (model / "model.safetensors").unlink()
    assert only(model)[:2] == ("error", "no-weights")
    (model / "pytorch_model.bin").write_bytes(b"")
    assert only(model)[:2] == ("warning", "pickle-only")


def move(index):
    index["weight_map"]["lm_head.bias"] = SECOND


@pytest.mark.parametrize(
    ("planted", "severity", "rule", "told"),
    [
        (lambda i: i.pop("weight_map"), "error", "index", "has no weight_map"),
        (lambda i: i.pop("metadata"), "warning", "index", "has no metadata: transformers fails"),
        (lambda i: i["weight_map"].pop("lm_head.bias"), "warning", "index-tensor", "not listed: transformers 4 takes"),
        (move, "warning", "index-tensor", f"lm_head.bias lies in {FIRST}, not in {SECOND}: readers of single"),
        (lambda i: i["metadata"].update(total_size=7), "warning", "total-size", "total_size is 7, the tensors take"),
        (lambda i: i["weight_map"].update(ghost="no.safetensors"), "error", "shard-missing", "no.safetensors is not"),
    ],
)
def test_every_defect_of_the_index_is_named(sharded, planted, severity, rule, told):
    index = read(sharded / INDEX)
    planted(index)
    write(sharded / INDEX, index)
    found = only(sharded)
    assert found[:2] == (severity, rule)
    assert told in found[2]


def test_shards_and_files_beside_them(sharded, exported):
    single = (exported / "model.safetensors").read_bytes()
    (sharded / "model.safetensors").write_bytes(single)
    assert only(sharded)[:2] == ("warning", "two-models")
    (sharded / "model.safetensors").rename(sharded / "model-00003-of-00003.safetensors")
    assert "MLX and TGI read it too" in only(sharded)[2]
    (sharded / "model-00003-of-00003.safetensors").rename(sharded / "old.safetensors")
    assert "TGI reads it too" in only(sharded)[2]
    (sharded / "old.safetensors").unlink()
    index = (sharded / INDEX).read_text()
    (sharded / INDEX).unlink()
    assert only(sharded)[:2] == ("warning", "index")
    (sharded / INDEX).write_text(index)
    path = sharded / SECOND
    path.write_bytes(path.read_bytes()[:-1])
    assert "1 of" in only(sharded)[2]
    path.unlink()
    assert only(sharded)[:2] == ("error", "shard-missing")


def test_a_shard_that_the_index_forgot(sharded):
    index = read(sharded / INDEX)
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file == SECOND}
    write(sharded / INDEX, index)
    rules = {finding.rule for finding in lint(sharded)}
    assert rules == {"tensor-missing", "leftover", "total-size"}


def test_a_tensor_in_two_shards(sharded):
    bias = load_file(sharded / FIRST)["lm_head.bias"]
    change_tensors(sharded / SECOND, lambda t: t.update({"lm_head.bias": bias}))
    index = read(sharded / INDEX)
    index["metadata"]["total_size"] += bias.nbytes
    write(sharded / INDEX, index)
    assert only(sharded)[:2] == ("warning", "tensor-twice")


# --- The tokenizer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "values", "rule", "told"),
    [
        ((), {"tokenizer_class": "TokenizersBackend"}, "tokenizer-class", "transformers 4 knows no such class"),
        ((), {"clean_up_tokenization_spaces": True}, "clean-up", "silently; set it to false"),
        ((), {"model_max_length": 10**30}, "max-length", "does not warn of longer texts"),
        ((), {"model_max_length": 32}, "max-length", "cuts texts that the model can read"),
        (("model_max_length",), {}, "max-length", "model_max_length is missing"),
        ((), {"eos_token": "<eos>"}, "end-token", "'<eos>' is not in the vocabulary"),
        ((), {"eos_token": {"content": "def"}}, "end-differs", "in the tokenizer: transformers and MLX stop at"),
    ],
)
def test_every_defect_of_tokenizer_config_is_named(model, missing, values, rule, told):
    change(model / "tokenizer_config.json", *missing, **values)
    found = only(model)
    assert found[:2] == ("warning", rule)
    assert told in found[2]


def test_a_tokenizer_without_an_end(model):
    change(model / "tokenizer_config.json", "eos_token", tokenizer_class="PreTrainedTokenizerFast")
    assert lint(model) == []  # special_tokens_map.json names it
    (model / "special_tokens_map.json").unlink()
    assert "TGI and vLLM have nothing to stop at" in only(model)[2]
    change(model / "tokenizer_config.json", "tokenizer_class")
    assert lint(model) == []  # by their class, which transformers takes for Phi


def pairs(state):
    state["model"]["merges"] = [merge.split(" ") for merge in state["model"]["merges"]]


def renumber(state):
    state["added_tokens"][-1]["id"] += 1


@pytest.mark.parametrize(
    ("planted", "severity", "rule", "told"),
    [
        (pairs, "warning", "merges-pairs", "tokenizers before 0.20 fails"),
        (renumber, "error", "added-token-id", "every client, by `tokenizers`, numbers it 315"),
        (lambda s: s.pop("model"), "error", "damaged", "not a tokenizer"),
        (lambda s: s["model"]["merges"].pop(), "warning", "slow-files", "merges.txt: is not tokenizer.json's"),
    ],
)
def test_every_defect_of_tokenizer_json_is_named(model, planted, severity, rule, told):
    state = read(model / "tokenizer.json")
    planted(state)
    write(model / "tokenizer.json", state)
    found = only(model)
    assert found[:2] == (severity, rule)
    assert told in found[2]


def test_a_tokenizer_larger_than_the_embedding(trained, tmp_path):
    shape = phi.PhiConfig(315, 32, 128, 1, 2, 16, 8, SHAPE.max_seq_len)
    directory = export(trained, tmp_path / "model", shape)
    assert only(directory)[:2] == ("error", "tokenizer-size")
    assert "ids up to 315, the embedding 315 rows" in only(directory)[2]
    exact = phi.PhiConfig(316, 32, 128, 1, 2, 16, 8, SHAPE.max_seq_len)
    assert lint(export(trained, tmp_path / "exact", exact)) == []


def test_added_tokens_that_contradict(model):
    settings = read(model / "tokenizer_config.json")
    decoder = settings["added_tokens_decoder"]
    decoder["304"], decoder["305"] = decoder["305"], decoder["304"]
    write(model / "tokenizer_config.json", settings)
    assert only(model)[:2] == ("warning", "added-tokens")
    assert "the former for transformers 4 with use_fast=False and transformers 5, silently" in only(model)[2]
    decoder["304"], decoder["305"] = decoder["305"], decoder["304"]
    write(model / "tokenizer_config.json", settings)
    write(model / "added_tokens.json", {" " * 5: 1})
    assert only(model)[2].startswith("warning added_tokens.json: '     ': 1 here, 304 in tokenizer.json")


def test_the_slow_tokenizers_files(model):
    vocabulary = read(model / "vocab.json")
    tokens = list(vocabulary)
    vocabulary[tokens[0]], vocabulary[tokens[1]] = 1, 0
    write(model / "vocab.json", vocabulary)
    assert only(model)[2].startswith("warning vocab.json: is not tokenizer.json's")
    (model / "vocab.json").unlink()
    assert only(model)[2].startswith("warning vocab.json: vocab.json missing")
    (model / "merges.txt").unlink()
    assert "vocab.json and merges.txt missing: transformers 4 with use_fast=False fails" in only(model)[2]
    (model / "tokenizer.json").unlink()
    assert only(model)[:2] == ("error", "no-tokenizer")


def test_vocab_and_merges_alone(model):
    (model / "tokenizer.json").unlink()
    write(model / "vocab.json", {**read(model / "vocab.json"), "<|endoftext|>": 277})
    assert [finding.rule for finding in lint(model)] == ["no-tokenizer-json"]


# --- Any directory, and the command --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "severity"),
    [("config.json", "error"), ("generation_config.json", "warning"), ("tokenizer.json", "error"),
     ("tokenizer_config.json", "error"), ("vocab.json", "error"), (INDEX, "error")],
)  # fmt: skip
def test_damaged_json_is_named(model, file, severity):
    for text in ("{", "[]", "\udcff", ""):
        (model / file).write_text(text, errors="surrogateescape")
        damaged = [finding for finding in lint(model) if finding.rule == "damaged"]
        assert [(finding.severity, finding.place) for finding in damaged] == [(severity, file)]
        assert_readable(damaged[0])


JUNK = [None, True, 10**30, "x", [1], {"1": {}}]


@pytest.mark.parametrize(
    ("file", "fields"),
    [("config.json", 40), ("generation_config.json", 9), ("tokenizer.json", 9), ("tokenizer_config.json", 9),
     ("special_tokens_map.json", 3), ("vocab.json", 2), ("added_tokens.json", 1), (INDEX, 9)],
)  # fmt: skip
def test_no_content_ends_in_a_traceback(sharded, file, fields):
    """Every field of a file, and of the objects in it, replaced by everything it should not be."""
    write(sharded / "added_tokens.json", {" " * 31: 278})
    original = read(sharded / file)
    places = [(original, field) for field in original][:fields]
    for value in original.values():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            places += [(inner, field) for field in inner][:fields]
    for owner, field in places:
        kept = owner[field]
        for junk in JUNK:
            owner[field] = junk
            write(sharded / file, original)
            with contextlib.suppress(UserError):  # a model_type of another architecture
                for finding in lint(sharded):
                    assert_readable(finding)
        owner[field] = kept


def test_what_cannot_be_checked_is_a_users_mistake(model, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        lint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such directory"):
        lint(model / "config.json")
    change(model / "config.json", model_type="llama")
    with pytest.raises(UserError, match="model_type is 'llama'; only phi and codegen"):
        lint(model)
    (model / "config.json").unlink()
    assert only(model)[:2] == ("error", "no-config")


def test_the_command(model):
    done = phi_jax("lint", model, check=False)
    assert (done.returncode, done.stdout) == (0, f"{model}: errors: 0, warnings: 0\n")
    change(model / "config.json", num_key_value_heads=None)
    done = phi_jax("lint", model, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"{model}: errors: 0, warnings: 1"
    (model / "model.safetensors").unlink()
    done = phi_jax("lint", model, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["error", "warning"]
    assert lines[-1] == f"{model}: errors: 1, warnings: 1"
    done = phi_jax("lint", model / "nowhere", check=False)
    assert done.returncode == 1
    assert done.stderr == f"phi-jax: error: {model}/nowhere: no such directory; name one in Hugging Face's format\n"


def test_lint_needs_no_framework():
    code = (
        "import sys, phi_jax.weights.lint\n"
        "print([m for m in ('jax', 'torch', 'transformers', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
