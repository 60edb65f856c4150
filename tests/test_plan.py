"""`phi-jax plan`: hardware by name, memory beside compiled steps, microbatches that fit, the paper's configs.

Compiling is in tests/acceptance/test_plan_devices.py, and test_plan_topologies.py: the compilers are large and take
minutes. What they said of configs is committed as plan_gpu.json and plan_tpu.json, and read here.
"""

import dataclasses
import importlib.util
import json
import os
import re

import jax
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh
from running import MICRO, ROOT, python

from phi_jax import config, fields
from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import make_mesh
from phi_jax.planning.compiled import attention_kernels, exchanges
from phi_jax.planning.hardware import parse_hardware
from phi_jax.planning.memory import estimate_memory
from phi_jax.planning.plan import lines, plan
from phi_jax.training.rules import model_shape

PHI_1 = ["--config", f"{ROOT}/configs/phi_1.py"]
PHI_1_SMALL = ["--config", f"{ROOT}/configs/phi_1_small.py"]
TINY = PhiConfig(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, head_dim=16, rotary_dim=8,
    max_seq_len=128, compute_dtype="bfloat16",
)  # fmt: skip
COMMITTED = {}
for file in ("plan_gpu.json", "plan_tpu.json"):
    COMMITTED |= json.loads((ROOT / "tests" / "acceptance" / file).read_text())


# As `python child.py FUNCTION ANSWER`; its standard input is a file.
CHILD = """
import sys
from phi_jax.parallel import child
sys.stdin = open(sys.argv.pop(1))
child.main()
"""


@pytest.fixture
def forked_child(monkeypatch, tmp_path):
    """A plan's process has imported jax."""

    def run_child(function, arguments, *, environment):
        (tmp_path / "request").write_text(json.dumps(arguments))
        done = python("-c", CHILD, tmp_path / "request", function, tmp_path / "answer")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "answer").read_text())
        if "error" in found:
            raise UserError(found["error"])
        return found["answer"]

    monkeypatch.setattr("phi_jax.planning.plan.run_child", run_child)


@pytest.fixture(autouse=True)
def no_compiler_for_gpus(monkeypatch):
    """Whether jax's CUDA plugin is installed or not."""
    here = "phi_jax.planning.plan.compiler_is_here"
    monkeypatch.setattr(here, lambda hardware: hardware.is_tpu and importlib.util.find_spec("libtpu") is not None)


# --- Hardware ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "devices", "slices"),
    [("v5e:4x4", 16, 1), ("2xv5e:4x4", 32, 2), ("v5p:2x2x4", 16, 1), ("tpu7x:2x2x1", 8, 1), ("v5e:1x1", 1, 1)],
)
def test_a_topology_has_its_devices(text, devices, slices):
    hardware = parse_hardware(text)
    assert (hardware.devices, hardware.count, hardware.is_tpu) == (devices, slices, True)


@pytest.mark.parametrize(
    "text",
    [
        "v5e",
        "v9:2x2",
        "v5e:0x4",
        "0xv5e:4x4",
        "H100:2x2",
        "",
        "H100",
        "8xA100",
        "0xH100",
        "4xv5e",
        "8xH100@",
        "8xH100@-1",
    ],
)
def test_what_is_no_hardware_is_one_line(text):
    with pytest.raises(UserError, match=r"^--devices .*; there are: .*v5e.*A100-80GB.*$"):
        parse_hardware(text)


@given(st.text(max_size=12))
def test_any_other_text_is_refused_in_one_line(text):
    assume(not re.match(r"\d*x?(v|tpu|[ABHL])\d", text, re.IGNORECASE))
    with pytest.raises(UserError, match=r"^--devices "):
        parse_hardware(text)


def test_gpus_are_a_number_and_a_name():
    hardware = parse_hardware("8xH100")
    assert (hardware.devices, hardware.chip.name, hardware.is_tpu) == (8, "H100", False)
    assert (hardware.dollars, parse_hardware("8xH100@2.5").dollars) == (None, 2.5)
    with pytest.raises(UserError, match=r"--devices 12xH100: more than 8 GPUs must be hosts of 8"):
        parse_hardware("12xH100")


# --- Memory --------------------------------------------------------------------------------------------------

# The compiler speaks of the real step on pretended devices of a CPU; in float32, as a CPU multiplies nothing else.
MEMORY = """
import dataclasses, json, math, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
from phi_jax import config
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import make_mesh
from phi_jax.planning.fit import compile_step
from phi_jax.planning.memory import estimate_memory
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import abstract_state
base = config.load(sys.argv[1:3])
shape = PhiConfig(vocab_size=1024, hidden_size=128, intermediate_size=512, num_layers=6, num_heads=4, head_dim=32,
                  rotary_dim=16, max_seq_len=256)
for model, batch, microbatches, mesh_shape, chunk, *optimizer in json.loads(sys.argv[3]):
    values = base.to_dict()["training"]
    values.update(global_batch_size=batch, microbatches=microbatches, mesh=mesh_shape, loss_chunk=chunk)
    values.update(optimizer=[*optimizer, "muon"][0])
    mesh = make_mesh(mesh_shape, jax.devices()[: mesh_shape[0] * mesh_shape[1] * mesh_shape[2]])
    changed, rules = dataclasses.replace(shape, **model), config.Config(values)
    parts = estimate_memory(changed, rules, mesh)
    memory = compile_step(changed, rules, mesh).memory_analysis()  # a CPU's compiler leaves temporaries out of its peak
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes  # the donated state is not counted twice
    leaves = jax.tree.leaves(abstract_state(changed, make_optimizer(rules, mesh), mesh))
    state = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    print(json.dumps([sum(parts.values()), needed, memory.alias_size_in_bytes, state]), flush=True)
"""
CASES = [
    ({}, 8, 1, (1, 1, 1), 64),
    ({"attention_dropout": 0.1, "residual_dropout": 0.1}, 8, 2, (2, 1, 1), 64),
    ({"remat": "full", "vocab_size": 4096}, 16, 1, (1, 4, 1), 128),
    ({"remat": "dots"}, 8, 2, (1, 1, 2), 64),
    ({}, 8, 1, (1, 2, 1), 64, "adamw"),
]


def measured(cases):
    done = python("-c", MEMORY, *MICRO, json.dumps(cases))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def steps():
    return measured(CASES)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_analytic_model_is_within_a_seventh_of_what_the_compiler_needs(steps, case):
    estimated, compiled, _, _ = steps[case]
    assert 6 / 7 < estimated / compiled < 7 / 6


def test_a_step_writes_the_new_state_in_the_place_of_the_old_one(steps):
    for _, _, aliased, state in steps:
        assert aliased == state > 0


@pytest.mark.parametrize("kernel", ["xla", "splash"])
def test_more_is_kept_with_more_rows_and_less_with_more_remat(kernel):
    def kept(remat, rows=2, layers=2):
        shape = dataclasses.replace(TINY, attention=kernel, remat=remat, num_layers=layers)
        rules = config.load([*MICRO, f"--config.training.global_batch_size={rows}"]).training
        return estimate_memory(shape, rules, make_mesh((1, 1, 1), jax.devices()[:1]))["saved activations"]

    assert kept("full") < kept("dots") < kept("none")
    assert kept("dots", rows=6) - kept("dots", rows=4) == kept("dots", rows=4) - kept("dots") > 0
    block_input = 2 * TINY.max_seq_len * TINY.hidden_size * 2
    assert kept("full", layers=5) - kept("full") == 3 * block_input


def estimated_gib(config_name, argument, devices, overrides):
    file = f"{ROOT}/configs/{config_name}.py:{argument}".rstrip(":")
    chosen = config.load(["--config", file, *overrides])
    data, _, tensor = chosen.training.mesh
    mesh = AbstractMesh((data, parse_hardware(devices).devices // data, tensor), ("data", "fsdp", "tensor"))
    return sum(estimate_memory(model_shape(chosen), chosen.training, mesh).values()) / 2**30


def test_the_estimate_is_within_15_percent_of_what_the_compilers_need():
    """tests/acceptance/test_plan_devices.py renews what they say. A TPU's may refuse a program, and gives no figure.

    They were jax 0.10's. Under jax 0.12 the backward pass keeps one array of the MLP's width less (5 for 6), and the
    estimate, which counts them, is lower than those figures; it is never more above them.
    """
    below = 0.15 if jax.__version__.startswith("0.10.") else 0.25
    wrong = {}
    for name, case in COMMITTED.items():
        if not case["GiB"]["compiled"]:
            continue
        wrong[name] = estimated_gib(*case["config"]) / max(case["GiB"]["compiled"].values()) - 1
    print(wrong)
    for devices in ("xA100", "xH100", "v5e:"):
        assert any(devices in name for name in wrong)
    assert {"phi_1.py", "phi_1_small.py"} < {name.split()[0] for name in wrong}  # the kernel xla among them
    assert all(-below < share < 0.15 for share in wrong.values())


# --- A compiled program, read ------------------------------------------------------------------------------------

# Shortened from one for 8 H100s; the forms of groups are those that XLA writes.
PROGRAM = """
%body (p: (s32[], bf16[256,1024])) -> (s32[], bf16[256,1024]) {
  %gather = (bf16[256,1024]{1,0}, bf16[1024,1024]{1,0}) all-gather-start(%w), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}
  %gathered = bf16[1024,1024]{1,0} all-gather-done(%gather), metadata={op_name="jit(f)"}
  %call = bf16[8]{0} custom-call(%gathered), custom_call_target="__cudnn$fmhaSoftmax"
  %scatter = ((bf16[1024,1024]{1,0}), bf16[256,1024]{1,0}) reduce-scatter-start(%gathered), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %scattered = bf16[256,1024]{1,0} reduce-scatter-done(%scatter)
}

%wrapped (x: f32[256]) -> f32[256] {
  ROOT %reduce.1 = f32[256]{0} all-reduce(%x), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}

ENTRY %main (w: bf16[256,1024]) -> bf16[256,1024] {
  %while.1 = (s32[], bf16[256,1024]{1,0}) while(%tuple), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"24"}}
  ROOT %fusion.1 = f32[256]{0} fusion(%x), kind=kLoop, calls=%wrapped
}
"""  # noqa: E501


# Shortened from one for 16 TPUs: a ring in a loop whose counter goes by twos, beside a kernel's text of several lines.
TPU_PROGRAM = """
%cond (p: (bf16[8], u32[])) -> pred[] {
  %constant.3 = u32[]{:T(128)} constant(8), metadata={}
  %param = (bf16[8]{0}, /*index=1*/u32[]{:T(128)}) parameter(0)
  %count.1 = u32[]{:T(128)} get-tuple-element(%param), index=1
  ROOT %compare = pred[]{:T(512)} compare(%count.1, %constant.3), direction=LT
}

%body (p: (bf16[8], u32[])) -> (bf16[8], u32[]) {
  %constant..sunk.2 = u32[]{:T(128)} constant(2)
  %kernel = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={}
  %part.1 = (bf16[1,128,8192]{2,1,0:T(8,128)(2,1)}, bf16[1,128,8192]{2,1,0}, u32[]{:S(2)}) collective-permute-start(%x)
  %part = bf16[1,128,8192]{2,1,0:T(8,128)(2,1)} collective-permute-done(%part.1)
  %count = u32[]{:T(128)} add(%count.2, %constant..sunk.2)
  ROOT %tuple = (bf16[8]{0}, u32[]{:T(128)}) tuple(%part, /*index=1*/%count)
}

ENTRY %main (w: bf16[8]) -> bf16[8] {
  %while = (bf16[8]{0}, u32[]{:T(128)}) while(%w), condition=%cond, body=%body, metadata={}
}
"""


def test_the_loops_of_a_tpus_program_are_counted_by_their_conditions():
    assert exchanges(TPU_PROGRAM, 16) == {"collective-permute": (4, 4 * 2 * 128 * 8192)}
    assert attention_kernels(TPU_PROGRAM) == ["tpu_custom_call"]
    with pytest.raises(LookupError):  # nothing is guessed of a counter that is no sum
        exchanges(TPU_PROGRAM.replace(" add(", " multiply("), 16)


def test_what_a_program_exchanges_is_counted_as_often_as_its_loops_run():
    whole = 2 * 1024 * 1024
    assert exchanges(PROGRAM, 8) == {
        "all-gather": (24, 24 * whole * 3 // 4),
        "all-reduce": (1, 2 * 4 * 256 // 2),
        "reduce-scatter": (24, 24 * whole * 3 // 4),
    }
    assert attention_kernels(PROGRAM) == ["__cudnn$fmhaSoftmax"]


# --- The bound ---------------------------------------------------------------------------------------------------


def test_the_bound_is_the_arithmetic_of_published_peaks(forked_child):
    arguments = ["--config", f"{ROOT}/configs/phi_1.py:hardware=8xh100", "--config.training.microbatches=8"]
    planned = plan(config.load(arguments), parse_hardware("16xH100"), mfu=1.0)
    bound = planned.sections[0].bound
    tokens, layers, width, head = 1024 * 2048 / 16, 24, 2048, 2048 * 51_200
    blocks = layers * 12 * width**2
    peak, links = 1979e12 / 2, 450e9  # FLOP/s of a H100 SXM, bytes/s of its NVLink in one direction
    # Nothing is computed again; half of attention's pairs count, and seven products of them.
    assert bound.parts["products"] == (pytest.approx(6 * tokens * blocks / peak), "FLOPs")
    assert bound.parts["attention"] == (pytest.approx(7 * tokens * layers * 2048 * width / peak), "FLOPs")
    assert bound.parts["loss"] == (pytest.approx(6 * tokens * head / peak), "FLOPs")
    # AdamW reads and writes parameters and two moments, and reads the gradients twice: 32 bytes a parameter.
    assert bound.parts["optimizer"] == (pytest.approx(32 * planned.parameters / 16 / 3350e9, rel=1e-2), "memory")
    # Weights come twice a microbatch, gradients go once, 2 bytes each. A half comes from the other host, a sixteenth
    # over each GPU's 50 GB/s: less time than NVLink takes.
    exchanged = 8 * 2 * (3 * blocks + 2 * head)
    assert bound.exchanged_bytes == pytest.approx(exchanged * 15 / 16, rel=1e-6)
    assert bound.parts["exchanges"] == (pytest.approx(exchanged * 15 / 16 / links), "links")
    one_by_one = ("products", "attention", "loss", "optimizer")
    assert bound.seconds == pytest.approx(sum(bound.parts[part][0] for part in one_by_one))
    for duration in planned.durations:  # at most as long as all pairs take at the whole peak, and shorter than with xla
        assert 0.8 * duration.hours < duration.bound_hours < duration.hours < duration.dropout_hours
    assert any("the paper's attention dropout of 0.1; cudnn and splash have none" in line for line in lines(planned))
    # A short text's attention waits for memory: queries, keys, values and outputs, 2 bytes each, in three passes.
    short = plan(config.load([*arguments, "--config.tokenize.seq_len=256"]), parse_hardware("16xH100"), mfu=1.0)
    seconds = 3 * 4 * 2 * layers * (1024 * 256 / 16) * width / 3350e9
    assert short.sections[0].bound.parts["attention"] == (pytest.approx(seconds), "memory")
    again = plan(config.load([*arguments, "--config.model.remat=full"]), parse_hardware("16xH100"))
    again = again.sections[0].bound
    assert again.parts["products"][0] == pytest.approx(4 / 3 * bound.parts["products"][0])


# --- What a plan says ----------------------------------------------------------------------------------------


def test_microbatches_that_fit_are_named_as_they_are_typed(forked_child):
    base = [*PHI_1, "--config.training.microbatches=1", "--config.finetune.microbatches=1"]
    result = plan(config.load(base), parse_hardware("8xL40S"))
    assert not result.fits
    assert [fit.rules for fit in result.sections] == ["training", "finetune"]
    for fit in result.sections:
        assert fit.needed_bytes > fit.limit_bytes >= fit.fitting.needed_bytes
    typed = re.findall(r"fits with (\S+):", "\n".join(lines(result)))
    again = plan(config.load([*PHI_1, *typed]), parse_hardware("8xL40S"))
    assert again.fits
    assert [fit.needed_bytes for fit in again.sections] == [fit.fitting.needed_bytes for fit in result.sections]


def test_what_no_microbatches_can_save_is_said(forked_child):
    batches = ("global_batch_size=4", "microbatches=1")
    few = [f"--config.{rules}.{size}" for rules in ("training", "finetune") for size in batches]
    large = ["--config.model.hidden_size=16384", "--config.model.num_heads=256"]
    result = plan(config.load([*PHI_1, *large, *few]), parse_hardware("1xL4"))
    assert [fit.fitting for fit in result.sections] == [None, None]
    assert any("larger devices" in line for line in lines(result))


def test_an_estimate_is_called_one_and_time_is_the_arithmetic():
    result = plan(config.load(PHI_1), parse_hardware("8xA100-80GB"), mfu=0.5)
    text = lines(result)
    assert any("analytic estimate: jax's CUDA plugin" in line for line in text)
    assert not any("compiled" in line for line in text)
    hours = {d.model: d for d in result.durations}
    assert set(hours) == {"raw", "base", "finetuned", "raw+exercises"}
    assert (hours["base"].tokens, hours["finetuned"].tokens) == (24_000 * 1024 * 2048, 6000 * 256 * 2048)
    # 57 % by PaLM's 6N with the lookup in it (tests/test_flops.py) took the paper 770 GPU-hours for 51B tokens.
    assert hours["base"].hours * 8 == pytest.approx(770 * 50.33 / 51 * 0.536 / 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("overrides", "hardware", "message"),
    [
        ([], "3xH100", "config.training: global_batch_size=1024 cannot be cut"),
        (["--config.training.mesh=(3,-1,1)"], "8xH100", r"config.training.mesh=\(3, -1"),
        (["--config.training.mesh=(1,1,8)", "--config.model.num_heads=12"], "8xH100", "=12: cannot be cut into 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_line(forked_child, overrides, hardware, message):
    with pytest.raises(UserError, match=message) as caught:
        plan(config.load([*PHI_1, *overrides]), parse_hardware(hardware))
    assert "\n" not in str(caught.value)


def test_without_libtpu_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'phi-jax\[plan\]'"):
        plan(config.load(PHI_1), parse_hardware("v5e:4x4"))


# --- The paper's configs -------------------------------------------------------------------------------------

_TEACHING = ("texts.", "annotate.", "judge.", "teachers.", "budget.")


@pytest.mark.parametrize("name", ["phi_1", "phi_1_small"])
def test_the_resolved_config_is_the_golden_one(name):
    """Renew: PHI_JAX_RENEW_GOLDEN=1 pytest."""
    golden = ROOT / "tests" / "golden" / f"{name}.json"
    text = json.dumps(config.load(["--config", f"{ROOT}/configs/{name}.py"]).to_dict(), indent=1) + "\n"
    if os.environ.get("PHI_JAX_RENEW_GOLDEN") == "1":
        golden.write_text(text)
    assert golden.read_text() == text


def test_phi_1_has_every_field_of_nano_and_overrides_only_what_there_is():
    """But for who writes and who grades: nano's grammar and rubric, phi-1's LLMs."""
    configs = (fields.leaves(config.load(name).to_dict()) for name in (MICRO, PHI_1))
    nano, phi_1 = (
        {path.replace("finetune.", "training.") for path, _ in found if not path.startswith(_TEACHING)}
        for found in configs
    )
    assert nano == phi_1


def test_phi_1_small_is_phi_1_at_another_size():
    large, small = config.load(PHI_1).to_dict(), config.load(PHI_1_SMALL).to_dict()
    differ = {f"{s}.{f}" for s in large if s != "seed" for f in large[s] if large[s][f] != small[s][f]}
    sizes = {f"model.{f}" for f in ("num_layers", "hidden_size", "intermediate_size", "num_heads")}
    assert differ == {*sizes, "report.title"}


@pytest.mark.parametrize(("kernel", "dropout"), [("xla", 0.1), ("cudnn", 0.0), ("splash", 0.0)])
def test_a_fused_kernel_costs_the_attention_dropout(kernel, dropout):
    for name in ("phi_1", "phi_1_small"):
        shape = model_shape(config.load(["--config", f"{ROOT}/configs/{name}.py:attention={kernel}"]))
        assert (shape.attention, shape.attention_dropout, shape.residual_dropout) == (kernel, dropout, 0.1)
    both = config.load(["--config", f"{ROOT}/configs/phi_1.py:attention=cudnn,optimizer=muon"])
    assert (both.model.attention, both.training.optimizer) == ("cudnn", "muon")
    with pytest.raises(UserError, match=r"phi_1\.py:attention=flash: attention=flash is unknown; use attention=xla"):
        config.load(["--config", f"{ROOT}/configs/phi_1.py:attention=flash"])


@pytest.mark.parametrize("name", ["phi_1", "phi_1_small"])
@pytest.mark.parametrize(
    ("argument", "devices"),
    [
        ("8xa100", "8xA100-80GB"), ("8xh100", "8xH100"), ("8xh200", "8xH200"), ("1xh100", "1xH100"),
        ("16xv5e", "v5e:4x4"), ("16xv5p", "v5p:2x2x4"), ("16xv6e", "v6e:4x4"),
    ],
)  # fmt: skip
def test_a_hardware_gets_the_most_rows_that_fit_it(name, argument, devices):
    """As compiled; what was not compiled (some steps for TPUs, and those far too large), as estimated."""
    found = config.load(["--config", f"{ROOT}/configs/{name}.py:hardware={argument}"])
    hardware, microbatches = parse_hardware(devices), found.training.microbatches
    kernel = "splash" if hardware.is_tpu else "cudnn"
    assert (found.model.attention, found.model.attention_dropout) == (kernel, 0.0)
    assert found.model.remat in (("none", "dots") if hardware.is_tpu else ("none",))
    assert found.finetune.microbatches * 4 == microbatches

    def case_of(count):
        return COMMITTED.get(f"{name}.py:hardware={argument} on {devices} microbatches={count}")

    def fits(count):
        if case_of(count):
            return case_of(count)["fits"]
        overrides = [f"--config.training.microbatches={count}"]
        return estimated_gib(name, f"hardware={argument}", devices, overrides) * 2**30 <= hardware.usable_bytes

    assert fits(microbatches)
    assert found.finetune.microbatches == 1 or not fits(microbatches // 2)  # 1: its batch cannot be cut into less
    case = case_of(microbatches)
    assert case or hardware.is_tpu
    if case:
        assert case["rows"] * microbatches * hardware.devices == 1024
        assert max(case["GiB"]["compiled"].values()) < case["GiB"]["limit"]
        kernels = {"cudnn": ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"], "splash": ["tpu_custom_call"]}
        assert case["kernels"] == kernels[kernel]


def test_a_hardware_that_is_unknown_or_takes_another_kernel_is_one_line():
    with pytest.raises(UserError, match=r"phi_1\.py:hardware=8xa10: hardware=8xa10 is unknown; use .*hardware=8xa100"):
        config.load(["--config", f"{ROOT}/configs/phi_1.py:hardware=8xa10"])
    with pytest.raises(UserError, match="hardware=8xa100 takes attention=cudnn; name one of both"):
        config.load(["--config", f"{ROOT}/configs/phi_1.py:hardware=8xa100,attention=xla"])


def test_phi_1_base_on_the_papers_gpus_may_beat_its_four_days():
    hours = COMMITTED["phi_1.py:hardware=8xa100 on 8xA100-80GB microbatches=16"]["hours of phi-1-base"]
    again = COMMITTED["phi_1.py:hardware=8xa100 on 8xA100-80GB remat=full microbatches=16"]["hours of phi-1-base"]
    assert (
        hours["bound"] < again["bound"] < hours["bound, xla with dropout and remat full"] < hours["paper, on 8 A100s"]
    )
