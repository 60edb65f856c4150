"""phi-1's decoder (paper, section 2.3): attention and MLP in parallel from one LayerNorm.

Parameters are a plain nested dict, stacked over layers; `Phi` is the NNX module that makes it and carries the
logical axis names. Letters in names: B batch, T positions, S cached positions, L layers, D width, H heads,
K head dim, F MLP width, V vocabulary. Reference: transformers' PhiForCausalLM.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from phi_jax.errors import UserError
from phi_jax.fields import FIELDS, Field
from phi_jax.model import attention
from phi_jax.model.attention import Attend, dropout

Params = dict[str, Any]
# (q, k, v, dropout keys [B] or None) -> heads; each [B, T, H, K].
BlockAttention = Callable[[Array, Array, Array, Array | None], Array]

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# Field of PhiConfig, or the type of those that are not named -> what it may hold.
_RANGES: dict[Any, Field] = {
    int: Field(1, 2**31 - 1, kind="a whole number"),
    float: Field(1e-30, kind="a number"),
    **{
        name: FIELDS[f"model.{name}"]
        for name in ("attention_dropout", "residual_dropout", "compute_dtype", "remat", "attention")
    },
}


@dataclasses.dataclass(frozen=True)
class PhiConfig:
    """The shape of a phi model and how it is computed; hashable, so that it can be static under jit."""

    vocab_size: int  # V, entries of embedding and head (phi-1: 51,200; the tokenizer's 50,295 padded)
    hidden_size: int  # D, width of the residual stream (phi-1: 2048)
    intermediate_size: int  # F, width of the MLP (phi-1: 8192)
    num_layers: int  # L, blocks (phi-1: 24)
    num_heads: int  # H, attention heads (phi-1: 32)
    head_dim: int  # K, width of a head (phi-1: 64)
    rotary_dim: int  # first dims of a head that rotate (phi-1: 32)
    max_seq_len: int  # tokens of context (phi-1: 2048)
    layer_norm_eps: float = 1e-5  # model card
    rope_theta: float = 10000.0  # base of the rotary wavelengths; model card
    attention_dropout: float = 0.0  # probability, on attention weights (paper: 0.1)
    residual_dropout: float = 0.0  # probability, on the outputs of attention and MLP (paper: 0.1)
    initializer_range: float = 0.02  # standard deviation of initial matrices; the paper is silent, GPT-2's value
    attention: str = "xla"  # kernel that trains: xla, cudnn (NVIDIA GPUs) or splash (TPUs)
    compute_dtype: str = "float32"  # of activations; parameters, LayerNorm, softmax and logits are float32
    remat: str = "none"  # what the backward pass recomputes: none, dots (all but matmuls) or full
    scan_unroll: int = 1  # blocks in one turn of the loop over them; more compile longer and may run faster

    def __post_init__(self) -> None:
        """Raises UserError for a combination that cannot be computed."""

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if problem := (_RANGES.get(field.name) or _RANGES[field.type]).problem(value):
                raise UserError(f"config.model.{field.name}={value!r}: {problem}")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise UserError(
                f"config.model.rotary_dim={self.rotary_dim}: must be even and at most head_dim={self.head_dim}"
            )
        attention.check_kernel(self)

    @property
    def dtype(self) -> Any:
        """Of activations, as jax.numpy has it."""
        return jnp.dtype(self.compute_dtype)


class Phi(nnx.Module):
    """The parameters with their logical axis names. `forward` does the computing."""

    def __init__(self, config: PhiConfig, *, rngs: nnx.Rngs) -> None:
        sizes = {
            "layers": config.num_layers, "embed": config.hidden_size, "heads": config.num_heads,
            "head_dim": config.head_dim, "mlp": config.intermediate_size, "vocab": config.vocab_size,
        }  # fmt: skip

        def constant(value: float, *axes: str) -> nnx.Param:
            # The names are logical: which mesh axis each one is cut along is not the model's business.
            array = jnp.full([sizes[axis] for axis in axes], value, jnp.float32)
            return nnx.Param(array, out_sharding=axes, eager_sharding=False)

        def normal(*axes: str) -> nnx.Param:
            array = jax.random.normal(rngs.params(), [sizes[axis] for axis in axes], jnp.float32)
            return nnx.Param(config.initializer_range * array, out_sharding=axes, eager_sharding=False)

        def norm(*axes: str) -> nnx.Dict:
            return nnx.Dict(scale=constant(1.0, *axes), bias=constant(0.0, *axes))

        def linear(before: tuple[str, ...], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> nnx.Dict:
            return nnx.Dict(kernel=normal(*before, *inputs, *outputs), bias=constant(0.0, *before, *outputs))

        layers, d, heads, f = ("layers",), ("embed",), ("heads", "head_dim"), ("mlp",)
        self.embed = nnx.Dict(tokens=normal("vocab", "embed"))
        self.layers = nnx.Dict(
            norm=norm("layers", "embed"),
            attention=nnx.Dict(**{name: linear(layers, d, heads) for name in "qkv"}, out=linear(layers, heads, d)),
            mlp=nnx.Dict(fc1=linear(layers, d, f), fc2=linear(layers, f, d)),
        )
        self.final_norm = norm("embed")
        self.head = linear((), d, ("vocab",))


class Layout:
    """Sharding constraints that activations [B, T, D] pass through; none as long as there is one device.

    Left to itself, XLA may cut activations along D as the weights are, and exchange them in every block, or bring all
    rows to every device on the embedding's way back.
    """

    def looked_up(self, x_BxTxD: Array) -> Array:
        """Fresh from the embedding, whose rows are cut along D."""
        return x_BxTxD

    def rows(self, x_BxTxD: Array) -> Array:
        """Before, between and after the blocks."""
        return x_BxTxD


NOWHERE_CUT = Layout()


def init_params(config: PhiConfig, key: Array) -> Params:
    """Fresh float32 parameters, a function of the key alone."""
    return nnx.to_pure_dict(nnx.state(Phi(config, rngs=nnx.Rngs(params=key)), nnx.Param))


def abstract_params(config: PhiConfig) -> Params:
    """The same tree of jax.ShapeDtypeStruct; allocates nothing."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def logical_axes(config: PhiConfig) -> Params:
    """The same tree of tuples of logical axis names, e.g. ("layers", "embed", "mlp")."""
    model = nnx.eval_shape(lambda: Phi(config, rngs=nnx.Rngs(0)))
    named = jax.tree.map(
        lambda parameter: parameter.replace(parameter.get_metadata("out_sharding")),
        nnx.state(model, nnx.Param),
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )
    return nnx.to_pure_dict(named)


def forward(params: Params, tokens_BxT: Array, config: PhiConfig, **options: Any) -> Array:
    """Next-token logits [B, T, V] float32 of int32 tokens [B, T]. options: as in `hidden_states`."""
    return logits(params, hidden_states(params, tokens_BxT, config, **options), config)


def hidden_states(
    params: Params,
    tokens_BxT: Array,
    config: PhiConfig,
    *,
    segments_BxT: Array | None = None,
    attend: Attend | None = None,
    dropout_keys_B: Array | None = None,
    layout: Layout = NOWHERE_CUT,
) -> Array:
    """Output of the final LayerNorm, [B, T, D] in the compute dtype.

    segments_BxT: int32 number of the document that each position belongs to (attention.segments_of); a position then
    sees only those of its own at or before it. Rotary positions count on from the row's start all the same: attention
    depends on their differences alone. None: the row is one document.
    attend: computes attention, without dropout, for arrays over several devices; None: the kernel that config.attention
    names, for arrays on one. dropout_keys_B: a key for each row; None: no dropout.
    layout: where there is a mesh.
    """
    length = tokens_BxT.shape[1]
    attend_block = block_attention(config, length, segments_BxT, attend)
    cos_sin = rotary(jnp.arange(length)[None], config)
    x_BxTxD = layout.rows(layout.looked_up(params["embed"]["tokens"].astype(config.dtype)[tokens_BxT]))

    def step(x_BxTxD: Array, layer: tuple[Params, Array | None]) -> tuple[Array, None]:
        weights, keys_B = layer
        keys_3xB = (None, None, None) if keys_B is None else _split(keys_B, 3)
        seen = block(weights, x_BxTxD, cos_sin, attend_block, config, keys_3xB)
        return layout.rows(seen["residual"]), None

    if config.remat != "none":
        step = jax.checkpoint(step, policy=_REMAT_POLICIES[config.remat], prevent_cse=False)
    keys_LxB = None if dropout_keys_B is None else _split(dropout_keys_B, config.num_layers)
    x_BxTxD, _ = jax.lax.scan(step, x_BxTxD, (params["layers"], keys_LxB), unroll=config.scan_unroll)
    return layer_norm(params["final_norm"], x_BxTxD, config)


def block(
    weights: Params,
    x_BxTxD: Array,
    cos_sin: tuple[Array, Array],
    attend: BlockAttention,
    config: PhiConfig,
    keys_3xB: Sequence[Array | None] | Array = (None, None, None),
) -> dict[str, Array]:
    """What a block computes, by name: "residual", [B, T, D], is its output, and the others are on the way there.

    weights: of this block alone. keys_3xB: of dropout in attention, behind it, and behind the MLP.
    """
    heads, mlp, rate = weights["attention"], weights["mlp"], config.residual_dropout
    seen = {"norm": layer_norm(weights["norm"], x_BxTxD, config)}
    q, k, v = (_dense("btd,dhk->bthk", heads[name], seen["norm"], config) for name in "qkv")
    q, k = rotate(q, cos_sin, config), rotate(k, cos_sin, config)
    seen |= {"queries": q, "keys": k, "values": v}
    seen["attention"] = _dense("bthk,hkd->btd", heads["out"], attend(q, k, v, keys_3xB[0]), config)
    seen["MLP's inside"] = _dense("btd,df->btf", mlp["fc1"], seen["norm"], config)
    inner_BxTxF = jax.nn.gelu(seen["MLP's inside"], approximate=True)
    seen["MLP"] = _dense("btf,fd->btd", mlp["fc2"], inner_BxTxF, config)
    x_BxTxD = x_BxTxD + dropout(seen["attention"], rate, keys_3xB[1]) + dropout(seen["MLP"], rate, keys_3xB[2])
    return {**seen, "residual": x_BxTxD}


def logits(params: Params, hidden: Array, config: PhiConfig) -> Array:
    """Logits [..., V] float32 of hidden states [..., D]."""
    kernel_DxV = params["head"]["kernel"].astype(config.dtype)
    return jnp.dot(hidden, kernel_DxV, preferred_element_type=jnp.float32) + params["head"]["bias"]


# --- The parts of a block ------------------------------------------------------------------------------------


def layer_norm(weights: Params, x: Array, config: PhiConfig) -> Array:
    """LayerNorm over the last axis; statistics in float32."""
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    variance = jnp.square(x32 - mean).mean(-1, keepdims=True)
    normed = (x32 - mean) * jax.lax.rsqrt(variance + config.layer_norm_eps)
    return (normed * weights["scale"] + weights["bias"]).astype(config.dtype)


def rotary(positions_BxT: Array, config: PhiConfig) -> tuple[Array, Array]:
    """cos and sin [B, T, 1, rotary_dim / 2], float32."""
    half = config.rotary_dim // 2
    inverse_frequency = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions_BxT[..., None, None].astype(jnp.float32) * inverse_frequency
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BxTxHxK: Array, cos_sin: tuple[Array, Array], config: PhiConfig) -> Array:
    """Rotates the first rotary_dim dims, split in halves (GPT-NeoX layout); the rest passes."""
    cos, sin = cos_sin
    half = config.rotary_dim // 2
    x1, x2, rest = jnp.split(x_BxTxHxK, [half, 2 * half], axis=-1)
    a, b = x1.astype(jnp.float32), x2.astype(jnp.float32)
    rotated = [(a * cos - b * sin).astype(x1.dtype), (b * cos + a * sin).astype(x1.dtype)]
    return jnp.concatenate([*rotated, rest], axis=-1)


def _dense(spec: str, weights: Params, x: Array, config: PhiConfig) -> Array:
    """einsum(spec, x, kernel) + bias, in the compute dtype."""
    return jnp.einsum(spec, x, weights["kernel"].astype(config.dtype)) + weights["bias"].astype(config.dtype)


def block_attention(
    config: PhiConfig, length: int, segments_BxT: Array | None, attend: Attend | None
) -> BlockAttention:
    """Attention of a block: (q, k, v, dropout keys [B] or None) -> heads, each [B, T, H, K]."""
    if attend is None and config.attention == "xla":
        mask_BxTxT = attention.causal_mask(length, segments_BxT)
        return lambda q, k, v, keys_B: attention.attend(
            q, k, v, mask_BxTxT, dropout_rate=config.attention_dropout, dropout_keys_B=keys_B
        )
    kernel = attend or attention.FUSED[config.attention]
    return lambda q, k, v, keys_B: kernel(q, k, v, segments_BxT)


def _split(keys_B: Array, count: int) -> Array:
    """Keys [count, B], new ones of each row."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys_B)
