"""nano: the whole pipeline on a laptop: two cores, minutes, no key, no network once installed.

`nano.py` is the laptop run; `nano.py:size=micro` is the same code in minutes, which the tests run. It is phi_1.py
(which has every field's meaning) but for the fields below. Expected of the laptop run, on two cores of an AMD EPYC: 11 to 14
minutes, 1.2 GiB; pass@1 on `nano`, 200 held-out behaviours, four runs: raw 0, base 31 to 47, finetuned 91 to 96,
raw+exercises 65 to 73 %.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# What phi_jax needed at run time when nano was measured. A fixed list: nano's raw code is the same whatever is installed.
PACKAGES = """
absl-py aiofiles anyio array_record attrs certifi charset-normalizer click cloudpickle daft
dm-tree docstring_parser einops etils filelock flax fsspec gguf googleapis-common-protos grain
h11 hf-xet httpcore2 httpx2 huggingface_hub humanize idna immutabledict jax jaxlib joblib
markdown-it-py mdurl ml_collections ml_dtypes msgpack narwhals numpy opt_einsum optax
orbax-checkpoint packaging portpicker prometheus_client promise protobuf psutil pyarrow Pygments
PyYAML regex requests rich safetensors scikit-learn scipy simple-parsing simplejson six
tensorboardX tensorflow-datasets tensorflow-metadata tensorstore termcolor threadpoolctl tiktoken
tokenizers toml tqdm treescope truststore typing_extensions urllib3 uvloop wrapt zipp
"""


def get_config(argument: str = "size=laptop") -> ConfigDict:
    """argument: "size=laptop" or "size=micro"."""
    if argument not in ("size=laptop", "size=micro"):
        raise ValueError(f"nano.py:{argument}: unknown; use one of size=laptop, size=micro")
    micro = argument == "size=micro"

    # configs/ is no package: a config is loaded by its path, from any directory.
    c = runpy.run_path(str(Path(__file__).with_name("phi_1.py")))["get_config"]()

    # --- Raw code: what every installation has ---
    c.collect.sources = ("installed",)  # standard library and c.collect.packages: no download
    c.collect.packages = tuple(PACKAGES.split())  # see above
    c.collect.max_files = 400 if micro else 4000  # files looked at, those of the lowest content hashes

    # --- Texts: a grammar writes them, so that no language model is asked ---
    c.teachers = ConfigDict()  # none (paper: GPT-3.5 and GPT-4)
    c.texts = ConfigDict()  # one entry, named after who writes
    c.texts.grammar = ConfigDict()
    c.texts.grammar.writer = "grammar"  # the built-in grammar; it holds out the problems of the benchmark "nano"
    c.texts.grammar.family_cap = 6 if micro else 120  # behaviours of one family at most
    c.texts.grammar.held_out_one_in = 10  # one behaviour in so many, of each family, is only ever tested
    c.texts.grammar.sections_per_behaviour = 1 if micro else 3  # textbook sections written on each taught behaviour
    c.texts.grammar.exercises_per_behaviour = 4 if micro else 11  # exercises written on each taught behaviour
    c.texts.grammar.sandbox = "full"  # confinement of the texts when they are run: full (Landlock, seccomp, limits) or none
    c.texts.grammar.sandbox_workers = 2  # executions at once
    c.decontaminate.problems = "nano"  # no training text may hold what the grammar holds out

    # --- Filter: a rubric grades, a small budget is kept ---
    c.annotate.grader = "static"  # a rubric computed from the syntax tree (paper: GPT-4)
    c.annotate.max_files = 100 if micro else 1500  # files graded, a sample by hash
    c.filter.embed_tokens = 256  # nano's context
    c.filter.batch_size = 4  # files embedded at once on a device: a core's caches hold them
    c.filter.trees = 50 if micro else 200  # of the random forest
    c.filter.token_budget = 200_000 if micro else 4_000_000  # tokens kept: a share like the paper's 6B of 35B

    # --- Tokens: a BPE of a size that fits the model ---
    c.tokenize.tokenizer = ""  # a BPE learnt on the documents (paper: CodeGen-350M-mono's)
    c.tokenize.learn_on = ("raw", "grammar.textbooks", "grammar.exercises")  # all that is trained on
    c.tokenize.vocab_size = 1024 if micro else 2048  # entries, 39 special and whitespace ones included; 51,200 would dwarf the model
    c.tokenize.train_bytes = 200_000 if micro else 4_000_000  # bytes of each set that the BPE is learnt on
    c.tokenize.seq_len = 256  # tokens of context
    c.tokenize.validation_fraction = 0.1 if micro else 0.01  # share of documents held out: enough for some records
    c.tokenize.shard_tokens = 50_000 if micro else 2_000_000  # tokens in one shard: more than one shard of each set

    # --- Model: phi-1's block at a laptop's size, without what slows a CPU ---
    c.model.num_layers = 2 if micro else 4  # blocks
    c.model.hidden_size = 32 if micro else 96  # width D; of 128 is slower and, in as few steps, no better (tests/benchmarks/NOTES.md)
    c.model.intermediate_size = 128 if micro else 384  # MLP width F = 4 D, as in the paper
    c.model.num_heads = 2 if micro else 3  # attention heads
    c.model.head_dim = 16 if micro else 32  # width of a head
    c.model.rotary_dim = 8 if micro else 16  # dims of a head that rotate: half of them, as in the paper
    c.model.attention_dropout = 0.0  # at one pass over the data dropout only slows nano down (paper: 0.1)
    c.model.residual_dropout = 0.0  # as above (paper: 0.1)
    c.model.compute_dtype = "float32"  # a CPU computes it as fast as bfloat16
    c.model.scan_unroll = 1 if micro else 4  # all blocks, a sixth faster on a CPU
    c.model.remat = "none"  # memory is not short

    # --- Training: one pass, small batches, a higher rate ---
    c.training.steps = 24 if micro else 600  # optimizer steps
    c.training.schedule_steps = 24 if micro else 600  # the decay ends with the run (paper: 24,000 of 36,000)
    c.training.warmup_steps = 4 if micro else 20  # steps of linear warmup
    c.training.global_batch_size = 4 if micro else 8  # sequences in one step over all devices
    c.training.microbatches = 1 if micro else 4  # one sequence at a time on each of two devices: a core's caches hold it, a seventh faster; for more devices 1
    c.training.optimizer = "muon"  # on the kernels of the blocks: base is told from raw (paper: AdamW; see tests/benchmarks/NOTES.md)
    c.training.learning_rate = 7e-3  # of AdamW, on the rest; small models take more (paper: 1e-3)
    c.training.muon_learning_rate = 1.4e-2  # twice AdamW's
    c.training.muon_weight_decay = 0.0  # a short run needs none
    c.training.beta2 = 0.99  # AdamW; the second moment is of small batches
    c.training.loss_chunk = 128  # sequence positions whose logits exist at once
    c.training.mesh = (-1, 1, 1)  # data parallel
    c.training.cpu_devices = 2  # one for each core
    c.training.skip_spike = 20.0  # small batches are noisier
    c.training.max_skipped = 5  # a short run has no time for more
    c.training.checkpoint_every = 8 if micro else 300  # steps between saves
    c.training.keep_every = 0  # the last saves are enough to choose among
    c.training.evaluate_every = 8 if micro else 100  # steps between validation losses
    c.training.validation_batches = 2 if micro else 8  # global batches in one validation loss

    c.finetune.steps = 16 if micro else 900  # optimizer steps
    c.finetune.schedule_steps = 16 if micro else 900  # steps at which the linear decay reaches 0
    c.finetune.warmup_steps = 4 if micro else 15  # steps of linear warmup
    c.finetune.global_batch_size = 4 if micro else 8  # sequences in one step
    c.finetune.microbatches = 1 if micro else 4  # as in pretraining
    c.finetune.learning_rate = 7e-3  # as in pretraining (paper: a tenth of it)
    c.finetune.muon_learning_rate = 1.4e-2  # as in pretraining
    c.finetune.muon_weight_decay = 0.0  # as in pretraining
    c.finetune.checkpoint_every = 8 if micro else 450  # steps between saves
    c.finetune.keep_every = 8 if micro else 450  # saves to choose among
    c.finetune.evaluate_every = 8 if micro else 150  # steps between validation losses; each save has one

    c.models.base.mixture = (("filtered", 0.1), ("grammar.textbooks", 0.9))  # textbooks weigh more than in the paper's pool, for a model this small
    c.models.finetuned.mixture = (("grammar.exercises", 1.0),)  # the grammar's exercises
    c.models["raw+exercises"].mixture = (("grammar.exercises", 1.0),)  # the grammar's exercises

    c.select.problems = "nano"  # a fifth of what the grammar holds out, which the benchmark leaves out
    c.select.max_new_tokens = 16 if micro else 64  # length of a completion at most; no reference has more than 52
    c.select.slots = 8 if micro else 32  # completions that a device decodes at once
    c.select.sandbox_workers = 2  # executions at once

    # --- Weights and scores ---
    c.export.dtype = "float32"  # as trained
    c.evaluate.benchmark = "nano"  # the behaviours that the grammar holds out
    c.evaluate.further_benchmarks = ("idioms",)  # built in; the prompts of the other two do not fit the context
    c.evaluate.max_problems = 8 if micro else 200  # problems tried, the first ones
    c.evaluate.max_new_tokens = 16 if micro else 64  # length of a completion at most
    c.evaluate.slots = 8 if micro else 32  # completions that a device is compiled to decode at once
    c.evaluate.samples_per_problem = 1 if micro else 0  # sampled completions a problem, beside the greedy one
    if micro:
        c.evaluate.perturbations = ("typos",)  # one is enough to run the code
    c.evaluate.sandbox_workers = 2  # executions at once

    c.report.title = "nano"  # heading of the page
    c.report.files_to_grade = 6 if micro else 100  # files that the page offers a reader to grade
    return c
