"""Saves a tiny Phi, and tells what loading a directory comes to; run under transformers 5 and, as a script, under 4.

python saved.py save TOKENIZER DIRECTORY        python saved.py load DIRECTORY...   prints a JSON list
"""

import json
import sys

import torch
import transformers

CODE = "x = f( a , b ) . c ! d\n     e = 'é'\n"


def save(tokenizer, directory):
    """directory/whole, directory/sharded and directory/narrow (bfloat16), by save_pretrained."""
    learnt = transformers.AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    model = transformers.PhiForCausalLM(
        transformers.PhiConfig(
            vocab_size=352, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, bos_token_id=learnt.eos_token_id, eos_token_id=learnt.eos_token_id,
        )
    )  # fmt: skip
    for name, options in (("whole", {}), ("sharded", {"max_shard_size": "50KB"}), ("narrow", {})):
        if name == "narrow":
            model = model.to(torch.bfloat16)
        model.save_pretrained(f"{directory}/{name}", **options)
        learnt.save_pretrained(f"{directory}/{name}")


def load(directory):
    """What a client of this transformers gets out of a directory; {"error": the exception} where it gets nothing."""
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
        with torch.no_grad():
            logits = model(torch.tensor([[1, 2, 3]])).logits
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    attention = model.model.layers[0].self_attn
    return {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "finite": bool(torch.isfinite(logits).all()),
        "dtype": str(model.dtype),
        "ids": [model.config.bos_token_id, model.config.eos_token_id],
        "stops": model.generation_config.eos_token_id,
        "rotary_dim": attention.rotary_ndims,
        "tied": model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr(),
        **load_tokenizer(directory),
    }


def load_tokenizer(directory):
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        ids = tokenizer(CODE)["input_ids"]
        return {
            "largest_id": max(tokenizer.get_vocab().values()),
            "round_trip": tokenizer.decode(ids) == CODE,
            "end": tokenizer.eos_token_id,
        }
    except Exception as error:
        return {"tokenizer_error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    if sys.argv[1] == "save":
        save(*sys.argv[2:])
    else:
        print(json.dumps([load(directory) for directory in sys.argv[2:]]))
