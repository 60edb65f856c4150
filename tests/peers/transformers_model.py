"""A model in transformers, in a process of its own: any version of it, and its memory is given back.

python transformers_model.py make SHAPE LAYERS DTYPE DIR     random weights, saved by transformers itself
python transformers_model.py logits DIR TOKENS.npy OUT.npy   float32 logits [B, T, V] of tokens [B, T]
python transformers_model.py greedy DIR PROMPTS.json N OUT.json   {"tokens", "gaps"} of N tokens behind each prompt
"""

import itertools
import json
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import numpy as np
import torch
import transformers

SHAPES = {
    "phi-1": ("Phi", {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
                      "partial_rotary_factor": 0.5, "max_position_embeddings": 2048}),
    "phi-2": ("Phi", {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32,
                      "partial_rotary_factor": 0.4, "max_position_embeddings": 2048}),
    "codegen-350M": ("CodeGen", {"n_embd": 1024, "n_head": 16, "rotary_dim": 32, "n_positions": 2048, "n_ctx": 2048,
                                 "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
                                 "tie_word_embeddings": False}),
    "tiny phi": ("Phi", {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4,
                         "partial_rotary_factor": 0.5, "max_position_embeddings": 256, "vocab_size": 640}),
    "tiny codegen": ("CodeGen", {"n_embd": 96, "n_head": 4, "rotary_dim": 12, "n_positions": 256, "n_ctx": 256,
                                 "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "vocab_size": 640,
                                 "tie_word_embeddings": False}),
}  # fmt: skip


def make(shape, layers, dtype, directory):
    """Uniform weights of every kind, biases and norms too: initial zeros and ones would hide errors. They are wide
    enough that greedy decoding does not fall into a loop at once.
    """
    family, sizes = SHAPES[shape]
    config = getattr(transformers, f"{family}Config")(
        **{"vocab_size": 51200, "bos_token_id": 0, "eos_token_id": 0, **sizes},
        **{"num_hidden_layers" if family == "Phi" else "n_layer": int(layers)},
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.to_empty(device="cpu")
    width = 1.2 * (3 / sizes.get("hidden_size", sizes.get("n_embd"))) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(-width, width)
            if ("norm" in name or "ln_" in name) and name.endswith("weight"):
                parameter.add_(1.0)
    # Buffers, e.g. CodeGen's causal mask and sines, are not saved; what to_empty left in them goes nowhere.
    model.to(getattr(torch, dtype)).save_pretrained(directory)


def load(directory):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report  # nothing missing, unexpected, mismatched
    return model.eval()


def logits(directory, tokens, out):
    with torch.no_grad():
        output = load(directory)(torch.tensor(np.load(tokens)), use_cache=False)
    np.save(out, output.logits.numpy())


def greedy(directory, prompts, count, out):
    """Prompts of one length share a batch, so none is padded. gaps: between the two highest logits at each token."""
    model = load(directory)
    prompts = json.loads(Path(prompts).read_text())
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    tokens, gaps = [None] * len(prompts), [None] * len(prompts)
    for length, group in itertools.groupby(order, key=lambda i: len(prompts[i])):
        group = list(group)
        with torch.no_grad():
            ids = torch.tensor([prompts[i] for i in group])
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), min_new_tokens=None, max_new_tokens=int(count),
                do_sample=False, eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        top = torch.stack([torch.topk(x, 2).values for x in output.logits])  # [N, B, 2]
        for row, i in enumerate(group):
            tokens[i] = output.sequences[row, length:].tolist()
            gaps[i] = (top[:, row, 0] - top[:, row, 1]).tolist()
    found = {"tokens": tokens, "gaps": gaps, "transformers": transformers.__version__}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(os.cpu_count())
    {"make": make, "logits": logits, "greedy": greedy}[sys.argv[1]](*sys.argv[2:])
