"""`launch/published_check` rehearsed: the published shapes with few layers, from a stand-in for the Hub, and a kill in
every part. Writes published_check.json. Takes 10 minutes and 12 GB of disk.

The stand-in serves what the Hub does: Phi in float16 safetensors, CodeGen as a pickle with its old constants, GPT-2's
vocabulary; the weights are random, so nothing is solved.
"""

import datetime
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from published import CODEGEN, PHI, codegen_shapes, hub, phi_shapes, publish
from running import ROOT

from phi_jax.tokens.tokenizer import Tokenizer

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

RESULT = Path(__file__).with_name("published_check.json")
PHI_1 = {
    **PHI, "_name_or_path": "microsoft/phi-1", "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "num_hidden_layers": 2, "use_cache": True,
    "transformers_version": "4.37.0",
}  # fmt: skip
CODEGEN_350M = {
    **CODEGEN, "vocab_size": 51200, "n_embd": 1024, "n_head": 16, "n_positions": 2048, "n_ctx": 2048, "rotary_dim": 32,
    "tokenizer_class": "GPT2Tokenizer", "use_cache": True, "gradient_checkpointing": False,
}  # fmt: skip
MODELS = ("microsoft/phi-1", "microsoft/phi-1_5", "Salesforce/codegen-350M-mono")
KILLED = (MODELS[0], MODELS[2])  # one of each architecture
TOKENS = 16
PARTS = ("fetch", "lint", "import", "humaneval", "mbpp", "export", "transformers")


def weights(shapes, seed):
    """Norms around 1, matrices wide enough that greedy decoding does not fall into a loop at once."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32) * (1.2 / 1024**0.5)
        is_scale = ("norm" in name or "ln_" in name) and name.endswith("weight")
        made[name] = (values + is_scale).astype(np.float16)
    return made


@pytest.fixture(scope="module")
def repositories(shared_data, tmp_path_factory):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("hub")
    gpt2 = shared_data / "tokenizer"
    tokenizer = Tokenizer.load(gpt2)
    phi_1_5 = {**PHI_1, "_name_or_path": "microsoft/phi-1_5", "num_hidden_layers": 1}
    for name, config in ((MODELS[0], PHI_1), (MODELS[1], phi_1_5)):
        publish(place / name, config, weights(phi_shapes(config), len(name)), tokenizer)
    codegen = publish(place / MODELS[2], CODEGEN_350M, {}, tokenizer)
    for file in ("model.safetensors", "tokenizer.json"):  # as of 2022, before either
        (codegen / file).unlink()
    shutil.copyfile(gpt2 / "encoder.json", codegen / "vocab.json")
    shutil.copyfile(gpt2 / "vocab.bpe", codegen / "merges.txt")
    tensors = {n: torch.from_numpy(t) for n, t in weights(codegen_shapes(CODEGEN_350M), 3).items()}
    mask = torch.tril(torch.ones(1, 1, 2048, 2048, dtype=torch.uint8))
    tensors |= {f"transformer.h.{layer}.attn.causal_mask": mask.clone() for layer in range(2)}
    torch.save(tensors, codegen / "pytorch_model.bin")
    return {name: place / name for name in MODELS}


class Check:
    """The command on `models`, started as often as it takes."""

    def __init__(self, out, models, url, shared_data):
        data = shared_data / "eval"
        self.record = out / "published_check.json"
        self.command = [
            ROOT / "launch/published_check/run", "--out", out, "--models", ",".join(models), "--limit=2", "--slots=2",
            f"--max-new-tokens={TOKENS}", "--humaneval", data / "HumanEval.jsonl.gz", "--mbpp", data / "mbpp.jsonl",
        ]  # fmt: skip
        self.environment = {**os.environ, "HF_ENDPOINT": url, "PYTHON": sys.executable}

    def start(self):
        return subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env=self.environment,
        )  # fmt: skip

    def whole(self):
        process = self.start()
        output, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, output[-3000:]
        return output

    def models(self):
        return json.loads(self.record.read_text())["models"] if self.record.exists() else {}

    def killed_in(self, model, part, seconds):
        """Whether the kill, `seconds` after the part began, came before its end."""
        process = self.start()
        said = []
        for line in process.stdout:
            said.append(line)
            if line == f"{model}: {part}\n":
                break
        else:
            pytest.fail(f"{model}: {part} never began: {''.join(said)[-3000:]}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return part not in self.models().get(model, {})


def results(models):
    """Without the times."""
    return {
        name: {part: {k: v for k, v in found.items() if k != "seconds"} for part, found in parts.items()}
        for name, parts in models.items()
    }


def test_rehearsal(repositories, shared_data, tmp_path):
    start = time.monotonic()
    with hub(repositories) as (url, _):
        undisturbed = Check(tmp_path / "undisturbed", MODELS, url, shared_data)
        output = undisturbed.whole()
        seconds = time.monotonic() - start
        models = undisturbed.models()
        killed = Check(tmp_path / "killed", KILLED, url, shared_data)
        kills = []
        for model in KILLED:
            for part in PARTS:
                after = random.Random(f"{model}{part}").uniform(0.1, 0.7) * models[model][part]["seconds"]
                inside = killed.killed_in(model, part, after)
                kills.append({"model": model, "part": part, "after seconds": round(after, 2), "inside": inside})
        killed.whole()
        assert results(killed.models()) == results({name: models[name] for name in KILLED})
    print(output)
    RESULT.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
                "shapes": {n: json.loads((repositories[n] / "config.json").read_text()) for n in MODELS},
                "undisturbed seconds": round(seconds, 1),
                "said": [f"{name}: {part}: {found['says']}" for name in MODELS for part, found in models[name].items()],
                "models": models,
                "kills": kills,
                "seconds": round(time.monotonic() - start, 1),
            },
            indent=1,
        )
        + "\n"
    )
    for name in MODELS:
        assert [*models[name]] == list(PARTS)
        exported, compared = models[name]["export"], models[name]["transformers"]
        assert exported["differing"] == []
        assert len(exported["left_out"]) == (2 if "codegen" in name else 0)
        assert compared["differing"] == []
    assert sum(kill["inside"] for kill in kills) >= len(kills) - 2
