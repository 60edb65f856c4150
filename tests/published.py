"""Models in the form in which others publish them, made without our exporter, and a stand-in for their Hub."""

import contextlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from phi_jax.tokens import tokenizer

CODE = "def f(x):\n    return [i * i for i in range(x)]\n\n\nclass A:\n\tdef g(self):\n\t\treturn 'é'\n" * 20
PHI = {
    "architectures": ["PhiForCausalLM"], "model_type": "phi", "vocab_size": 320, "hidden_size": 32,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": None,
    "hidden_act": "gelu_new", "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0, "rope_scaling": None, "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "initializer_range": 0.02, "qk_layernorm": False, "tie_word_embeddings": False, "bos_token_id": None,
    "eos_token_id": None, "torch_dtype": "float16",
}  # fmt: skip
CODEGEN = {
    "architectures": ["CodeGenForCausalLM"], "model_type": "codegen", "vocab_size": 320, "n_embd": 32, "n_inner": None,
    "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "initializer_range": 0.02,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 50256, "torch_dtype": "float16",
}  # fmt: skip


def phi_shapes(c):
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    layer = {f"self_attn.{n}.weight": (d, d) for n in ("q_proj", "k_proj", "v_proj", "dense")}
    layer |= {f"self_attn.{n}.bias": (d,) for n in ("q_proj", "k_proj", "v_proj", "dense")}
    layer |= {"mlp.fc1.weight": (f, d), "mlp.fc1.bias": (f,), "mlp.fc2.weight": (d, f), "mlp.fc2.bias": (d,)}
    layer |= {"input_layernorm.weight": (d,), "input_layernorm.bias": (d,)}
    ends = {"model.embed_tokens.weight": (v, d), "lm_head.weight": (v, d), "lm_head.bias": (v,)}
    ends |= {"model.final_layernorm.weight": (d,), "model.final_layernorm.bias": (d,)}
    return ends | {f"model.layers.{i}.{n}": s for i in range(c["num_hidden_layers"]) for n, s in layer.items()}


def codegen_shapes(c):
    d, v = c["n_embd"], c["vocab_size"]
    f = c["n_inner"] or 4 * d
    layer = {"attn.qkv_proj.weight": (3 * d, d), "attn.out_proj.weight": (d, d)}
    layer |= {"mlp.fc_in.weight": (f, d), "mlp.fc_in.bias": (f,), "mlp.fc_out.weight": (d, f), "mlp.fc_out.bias": (d,)}
    layer |= {"ln_1.weight": (d,), "ln_1.bias": (d,)}
    ends = {"transformer.wte.weight": (v, d), "lm_head.weight": (v, d), "lm_head.bias": (v,)}
    ends |= {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}
    return ends | {f"transformer.h.{i}.{n}": s for i in range(c["n_layer"]) for n, s in layer.items()}


def random_tensors(shapes, seed=0, dtype=np.float16):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def publish(directory, config, tensors, trained=None):
    """Writes config.json, weights and a tokenizer, a tiny one where none is given; returns the directory."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    length = config.get("max_position_embeddings") or config["n_positions"]
    (trained or tokenizer.train([CODE], 310)).save(directory, max_length=length)
    return directory


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as its client asks files of. A file is sent from where it is asked to begin, so
    that a download that was cut off goes on."""

    repositories: dict[str, Path]  # "owner/model" or "datasets/owner/name" -> its files
    asked: list[str]
    revision = "a" * 40

    def do_GET(self):
        self.asked.append(self.path)
        path = self.path.removeprefix("/api").partition("?")[0].removeprefix("/models").lstrip("/")
        name = next((name for name in self.repositories if f"{path}/".startswith(f"{name}/")), None)
        if name is None:
            self.send_error(404)
            return
        rest, root = path[len(name) + 1 :].split("/"), self.repositories[name]
        files = {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}
        if self.path.startswith("/api/") and rest[0] == "tree":
            tree = [{"type": "file", "path": p, "size": f.stat().st_size, "oid": p} for p, f in files.items()]
            self.answer(json.dumps(tree).encode())
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": path} for path in files]
            about = {"id": name.removeprefix("datasets/"), "sha": self.revision, "siblings": siblings}
            self.answer(json.dumps(about).encode())
        elif rest[:2] == ["resolve", self.revision] and "/".join(rest[2:]) in files:
            self.send_file(files["/".join(rest[2:])])
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def send_file(self, path):
        size = path.stat().st_size
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"X-Repo-Commit": self.revision, "ETag": f'"{path.name}-{size}"', "Content-Length": size - start}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.begin(206 if start else 200, headers)
        if self.command == "GET":
            with path.open("rb") as file, contextlib.suppress(ConnectionError):  # whoever asked was killed
                file.seek(start)
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def answer(self, data):
        self.begin(200, {"Content-Length": len(data)})
        if self.command == "GET":
            self.wfile.write(data)

    def begin(self, status, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub(repositories):
    """(its URL, the list of the paths that it is asked for) of a Hub with these repositories."""
    asked: list[str] = []
    handler = type("Served", (Hub,), {"repositories": repositories, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
