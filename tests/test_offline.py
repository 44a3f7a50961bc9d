"""Compiling for accelerators that are not here: reading programs, limits of time, and golden programs where a compiler
is installed (marked tpu_compile and gpu_compile)."""

import json
import stat
import sys

import pytest

from jaxconv.benchmark import cases, networks
from jaxconv.offline import compile_for, hlo, read_target, run, table

GPU = """HloModule jit_f, is_scheduled=true

%fused_dot (p0: f32[6,5], p1: f32[5,7]) -> f32[6,7] {
  %p0 = f32[6,5]{1,0} parameter(0)
  %p1 = f32[5,7]{1,0} parameter(1)
  ROOT %dot.1 = f32[6,7]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[8,16,16,256], w: bf16[512,4,4,256], y: bf16[8,8,8,512], a: f32[6,5], b: f32[5,7]) -> bf16[2] {
  %x = bf16[8,16,16,256]{3,2,1,0} parameter(0)
  %w = bf16[512,4,4,256]{3,2,1,0} parameter(1)
  %y = bf16[8,8,8,512]{3,2,1,0} parameter(2)
  %a = f32[6,5]{1,0} parameter(3)
  %b = f32[5,7]{1,0} parameter(4)
  %c.1 = (bf16[8,8,8,512]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", backend_config={"a":"(b"}
  %c.2 = (bf16[8,16,16,256]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %c.3 = (bf16[512,4,4,256]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %t.1 = f32[256,16,16,8]{3,2,1,0} fusion(%x), kind=kLoop, calls=%fused_transpose
  %t.2 = f32[512,8,8,8]{3,2,1,0} fusion(%y), kind=kLoop, calls=%fused_transpose.1
  %c.4 = (f32[256,4,4,512]{3,2,1,0}, u8[0]{0}) custom-call(%t.1, %t.2), window={size=8x8 pad=1_1x1_1 rhs_dilate=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward"
  %g.1 = (f32[6,7]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %t.3 = f32[6,7]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused_dot
  %s.1 = s32[4]{0} scatter(%b), to_apply=%region
  ROOT %r = bf16[2]{0} get-tuple-element(%c.1), index=0
}
"""  # noqa: E501

TPU = """HloModule jit_f, is_scheduled=true

%fused (p: bf16[8,16]) -> bf16[8,16] {
  ROOT %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
}

ENTRY %main.1 (x: bf16[8,16]) -> bf16[8,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %copy-start = (bf16[8,16]{1,0:T(8,128)(2,1)S(1)}, bf16[8,16]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %fusion = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%copy-done), kind=kOutput, calls=%fused, backend_config={"window_config":{"estimated_cycles":"420"}}
  %reverse.1 = bf16[8,16]{1,0:T(8,128)(2,1)} reverse(%fusion), dimensions={0}
  ROOT %fusion.2 = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%reverse.1), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"80"}}
}
"""  # noqa: E501


def test_gpu_programs_are_read_call_by_call():
    work = 2 * 8 * 8 * 8 * 512 * 4 * 4 * 256  # the same for each face of one convolution
    found = list(hlo.products(hlo.parse(GPU)))
    assert [(p.kind, p.dtype) for p in found] == [
        ("fused product", "f32"), ("Forward", "bf16"), ("BackwardInput", "bf16"), ("BackwardFilter", "bf16"),
        ("BiasActivationForward", "f32"), ("cublas$gemm", "f32"),
    ]  # fmt: skip
    assert [p.flop for p in found[1:4]] == [work] * 3
    assert found[0].flop == found[5].flop == 2 * 6 * 5 * 7
    assert found[4].flop == 2 * (256 * 4 * 4 * 512) * 8 * 8 * 8
    assert [p.wide for p in found] == [False] * 4 + [True, False]  # a window of 8x8 with gaps, over 16x16
    figures = hlo.gpu_figures(GPU)
    assert figures["flop"] == sum(p.flop for p in found)
    # The fourth call is a kernel gradient in the form of a forward convolution: nothing is fused into it.
    assert figures["float32_operands"] == 3 and figures["wide_windows"] == 1 and figures["fused_activations"] == 0
    assert hlo.gpu_figures(GPU.replace("size=8x8", "size=3x3"))["fused_activations"] == 1
    # The kernel that holds the fused product is a product, not one more kernel.
    assert figures["kernels"] == {"fusion": 2, "scatter": 1}
    assert figures["calls"]["BackwardInput bf16"] == 1


def test_tpu_programs_are_read_with_what_has_no_estimate():
    assert hlo.tpu_figures(TPU) == {"cycles": 500, "uncounted": {"reverse": 1}, "uncounted_bytes": 2 * 8 * 16 * 2}


def test_targets_are_found_and_refused_by_name(tmp_path):
    for name in ("v5e:2x2", "v5p:2x2x1", "v6e:4x4"):
        assert read_target(name).kind == "tpu" and read_target(name).environment["JAX_PLATFORMS"] == "cpu"
    for name in ("h100", "a100"):
        target = read_target(name)
        assert target.kind == "gpu" and "--xla_gpu_autotune_level=0" in target.environment["XLA_FLAGS"]
    own = tmp_path / "mine.txtpb"
    with pytest.raises(FileNotFoundError, match="mine.txtpb does not exist"):
        read_target(str(own))
    own.write_text("gpu_device_info {}")
    assert read_target(str(own)).description == str(own)
    for name in ("h1000", "v5e", "v5e:2", "tpu"):
        with pytest.raises(ValueError, match="there are a100, h100, TPU slices such as v5e:2x2"):
            read_target(name)


def test_an_absent_compiler_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'v5e:2x2 is not installed: pip install "jaxconv\[tpu-compile\]"'):
        compile_for("v5e:2x2")
    with pytest.raises(ModuleNotFoundError, match=r'h100 is not installed: pip install "jaxconv\[gpu-compile\]"'):
        compile_for("h100")


def test_requests_name_everything_once_and_refuse_the_rest():
    wanted = run.requests_of(run.WHAT, "bfloat16", random=2, seed=3, batch_factor=8)
    keys = [(r["kind"], r["name"], r["task"], r["contender"]) for r in wanted]
    assert len(set(keys)) == len(keys) and {r["dtype"] for r in wanted} == {"bfloat16"}
    assert sum(r["kind"] == "layer" for r in wanted) == 9 * (len(cases.REAL) + 2)
    assert sum(r["kind"] == "inner layer" for r in wanted) == 9 * len(cases.REAL)
    assert sum(r["kind"] == "network" for r in wanted) == 6 * len(networks.ON_GPU)
    models = [r["network"] for r in wanted if r["kind"] == "model"]
    assert len(models) == 3 * len(networks.ON_CPU)
    assert [net["shape"] for net in models[::3]] == [(8 * n.shape[0], *n.shape[1:]) for n in networks.ON_CPU]
    assert json.loads(json.dumps(wanted)) is not None
    assert len(run.requests_of(("layers",), "float32", ["ASPP, r12"])) == 9
    with pytest.raises(ValueError, match="there is no"):
        run.requests_of(("everything",), "float32")
    with pytest.raises(ValueError, match="nothing among layers has any of"):
        run.requests_of(("layers",), "float32", ["no such layer"])


# Stands for an interpreter: answers like the worker, sleeps for lax, dies for accelerate's kernel gradients.
STUB = f"""#!{sys.executable}
import json, sys, time
print(json.dumps({{"ready": True, "versions": {{}}}}), flush=True)
for line in sys.stdin:
    r = json.loads(line)
    if r["contender"] == "lax" and r["task"] == "forward":
        time.sleep(60)
    if r["contender"] == "accelerate" and r["task"] == "kernel gradient":
        sys.exit(3)
    cycles = 100 if r["contender"] == "jaxconv" else 150
    answer = {{"seconds": {{"trace": 0.1, "all": 1.0}}, "temporary_bytes": 2**20, "cycles": cycles,
              "uncounted": {{"reverse": 1}}, "uncounted_bytes": 2**20}}
    print(json.dumps(answer), flush=True)
"""


def test_a_program_that_hangs_or_ends_the_compiler_costs_its_own_cell(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    out, said = tmp_path / "record.json", []
    options = {"named": ["pointwise"], "limit": 1.5, "python": str(python), "out": out, "show": said.append}
    record = compile_for("v5e:2x2", ("layers",), **options)
    forward, data, kernel = (row["contenders"] for row in record["rows"])
    assert forward["lax"] == {"failed": "not compiled within 2 s"} and forward["jaxconv"]["cycles"] == 100
    assert data["lax"]["cycles"] == data["accelerate"]["cycles"] == 150
    assert kernel["accelerate"] == {"failed": "the compiler's process ended with 3"} and kernel["lax"]["cycles"] == 150
    assert json.loads(out.read_text())["rows"] == record["rows"] and len(said) == 3
    assert "lax / ours 1.50" in said[1] and "not compiled" in said[0]
    found = {(s["task"], s["contender"]): s for s in table.summaries(record)}
    assert ("forward", "jaxconv") not in found
    assert found["kernel gradient", "jaxconv"]["mean"] == pytest.approx(1.5)
    assert found["data gradient", "accelerate"]["worst"] == 1.0
    assert "| layers | data gradient | lax / jaxconv | 1.50 | 1.50 | pointwise, 1x1 | 1 | 0 |" in table.markdown(record)
    assert table.worse(record) == []
    again = compile_for("v5e:2x2", ("layers",), **options, contenders=["jaxconv"])  # the others' answers stay
    assert again["rows"] == record["rows"] and len(said) == 6

    lines = []

    def interrupt(line):
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # rows that were to be compiled again stay as they were
        compile_for("v5e:2x2", ("layers",), **options | {"show": interrupt, "contenders": ["jaxconv"]})
    assert json.loads(out.read_text())["rows"] == record["rows"]
    with pytest.raises(ValueError, match="is a record of other settings"):
        compile_for("v5e:2x2", ("layers",), **options, dtype="float32")
    pytest.importorskip("rich")
    table.show(record)
    assert "uncounted: 1 reverse" in capsys.readouterr().out.replace("\n", " ")


def test_models_stand_beside_networks_of_the_same_name_and_the_table_names_what_did_not_compile(tmp_path):
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    options = {"named": ["ENet, 12", "FSRCNN"], "contenders": ["jaxconv", "lax"], "python": str(python)}
    said = []
    record = compile_for("v5e:2x2", ("networks", "models"), **options, batch_factor=4, show=said.append)
    rows = [(row["kind"], row["what"], row["task"], list(row["shape"])) for row in record["rows"]]
    assert rows == [
        ("network", "ENet, 12 classes", "training step", [8, 368, 480, 3]),
        ("network", "ENet, 12 classes", "inference", [8, 368, 480, 3]),
        ("model", "ENet, 12 classes", "training step", [4, 192, 256, 3]),
        ("model", "FSRCNN x2", "training step", [4, 64, 64, 3]),
    ]
    assert len(said) == 4
    record["rows"][2]["contenders"]["lax"] = {"failed": "not compiled within 400 s"}
    page = table.models(record)
    assert "| FSRCNN x2 | 4 x 64 x 64 x 3 | 0 / 0 | 1.50 | 1 / 1 | 1 / 1 |" in page
    assert page.endswith("Not compiled: ENet, 12 classes (lax: not compiled within 400 s).")


def test_rows_that_are_worse_are_said_with_their_times_and_why():
    def row(what, ours, wide):
        contenders = {"jaxconv": {"flop": ours}, "lax": {"flop": 100, "wide_windows": wide}}
        return {"what": what, "task": "kernel gradient", "kind": "layer", "contenders": contenders}

    record = {"kind": "gpu", "rows": [row("a", 110, 1), row("b", 125, 0), row("c", 101, 0)]}
    assert table.worse(record) == [
        "b, kernel gradient (0.80)",
        "a, kernel gradient (0.91, lax's window has the image's size)",
    ]
    timed = {("b", "kernel gradient"): 2.5}
    assert table.worse(record, timed)[0] == "b, kernel gradient (0.80, timed 2.50)"


def test_rows_of_a_tpu_say_what_an_estimate_leaves_out_and_what_the_layer_costs_inside_a_network():
    figures = [(200, 100, 3), (125, 100, 0)]
    record = {"kind": "tpu", "rows": []}
    for kind, (ours, lax, mib) in zip(("layer", "inner layer"), figures, strict=True):
        contenders = {"jaxconv": {"cycles": ours, "uncounted_bytes": 0}}
        contenders["lax"] = {"cycles": lax, "uncounted_bytes": mib * 2**20}
        record["rows"].append({"what": "a", "task": "kernel gradient", "kind": kind, "contenders": contenders})
    assert table.worse(record) == [
        "a, kernel gradient (0.50, inner 0.80, without an estimate 3.0 / 0.0 MiB)",
        "a, inner, kernel gradient (0.80)",
    ]


def small_records(target, *requests, **options):
    """Figures by (name, task, contender) of a few requests."""
    found = run.answers(list(requests), read_target(target), python=sys.executable, limit=200.0, workers=1, **options)
    out = {}
    for i, answer in found:
        assert "failed" not in answer, (requests[i], answer)
        out[requests[i]["name"], requests[i]["task"], requests[i]["contender"]] = answer
    return out


def layer_requests(name, tasks, contenders=("jaxconv", "lax"), what="layers", batch_factor=2):
    found = run.requests_of((what,), "bfloat16", [name], batch_factor=batch_factor)
    return [r for r in found if r["task"] in tasks and r["contender"] in contenders]


def network_requests(net, tasks=("training step",), contenders=("jaxconv", "lax")):
    fields = {**vars(net)}
    return [
        {"kind": "network", "name": net.name, "network": fields, "task": t, "contender": c, "dtype": "bfloat16"}
        for t in tasks
        for c in contenders
    ]


@pytest.mark.tpu_compile
def test_golden_programs_for_a_tpu_take_no_more_cycles_than_lax():
    requests = [
        *layer_requests("DCGAN generator 2", ("forward", "data gradient")),
        *layer_requests("dilated residual stack, r5", ("forward", "data gradient", "kernel gradient")),
        *layer_requests("MobileNet depthwise, s2", ("forward", "data gradient")),
        *layer_requests("pointwise", ("kernel gradient",)),
    ]
    found = small_records("v5e:2x2", *requests)
    pairs = {key[:2] for key in found}
    assert len(pairs) == 8
    for what, task in pairs:
        ours, lax = found[what, task, "jaxconv"], found[what, task, "lax"]
        assert 0 < ours["cycles"] <= 1.02 * lax["cycles"], (what, task)
        assert ours["temporary_bytes"] <= 1.1 * lax["temporary_bytes"] + 2**20, (what, task)


@pytest.mark.tpu_compile
def test_kernel_gradients_of_transposed_layers_cost_a_network_on_a_tpu_no_more_than_laxs():
    """Alone, lax's look cheaper: it reverses the larger operand first, by an instruction that has no estimate."""
    names = ("DCGAN last layer", "FCN-8s", "FCN-32s", "HiFi-GAN up", "DCGAN generator 2")
    asked = [r for name in names for r in layer_requests(name, ("kernel gradient",), what="inner", batch_factor=8)]
    found = small_records("v5e:2x2", *asked)
    assert len(found) == 2 * len(names)
    for what, task, who in found:
        if who == "jaxconv":
            ours, lax = found[what, task, who], found[what, task, "lax"]
            assert ours["cycles"] <= 1.02 * lax["cycles"], what
            assert ours["uncounted_bytes"] < lax["uncounted_bytes"] and "reverse" not in ours["uncounted"], what


@pytest.mark.tpu_compile
def test_a_v6e_multiplies_by_a_kernel_that_is_held_in_the_order_it_wants():
    """The compiler keeps a kernel's stored order, which costs half as much again where 128 channels come from 256."""
    asked = layer_requests("U-Net up, k2 s2", ("forward",), what="inner", batch_factor=8)
    found = small_records("v6e:2x2", *asked)
    ours, lax = (found["U-Net up, k2 s2", "forward", who]["cycles"] for who in ("jaxconv", "lax"))
    assert ours <= 1.05 * lax


@pytest.mark.tpu_compile
def test_a_function_of_the_users_own_is_compiled_for_a_tpu(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp, jaxconv as jc\n"
        "def f(x):\n"
        "    return jc.conv(x, jnp.ones((3, 3, 3, 8), x.dtype), padding=1)\n"
    )
    record = compile_for("v5e:2x2", function=f"{tmp_path / 'mine.py'}:f", shape=(1, 32, 32, 3), show=lambda line: None)
    for row in record["rows"]:
        assert set(row["contenders"]) == {"yours", "accelerate"}
        for answer in row["contenders"].values():
            assert answer["cycles"] > 0, row


@pytest.mark.tpu_compile
def test_the_installed_compiler_says_which_topology_it_does_not_know():
    with pytest.raises(ValueError, match="does not take the target 'v9x:2x2'"):
        compile_for("v9x:2x2", ("layers",), named=["pointwise"])


@pytest.mark.gpu_compile
@pytest.mark.parametrize("card", ["h100", "a100"])
def test_golden_programs_for_a_gpu_keep_the_form_that_cudnn_knows(card):
    settings = (("in_channels", 16), ("classes", 8), ("widths", (32, 64, 128)), ("batch_norm", False))
    unet = networks.Network("U-Net", "unet", (4, 64, 64, 16), settings)
    found = small_records(card, *network_requests(unet, ("training step", "inference")))
    for (what, task, who), ours in found.items():
        if who != "jaxconv":
            continue
        lax = found[what, task, "lax"]
        assert ours["float32_operands"] == ours["wide_windows"] == 0, (what, task, ours["calls"])
        assert ours["flop"] <= 1.02 * lax["flop"], (what, task)
        if task == "inference":
            assert ours["fused_activations"] >= lax["fused_activations"], what
        assert ours["temporary_bytes"] <= 1.1 * lax["temporary_bytes"] + 2**20
    assert found["U-Net", "inference", "jaxconv"]["calls"]["BackwardInput bf16"] == 2


@pytest.mark.gpu_compile
def test_a_transposed_convolution_of_laxs_is_a_backward_convolution_for_a_gpu_once_accelerated():
    names = ("DCGAN generator 2", "FCN-32s", "ENet head")
    requests = [r for name in names for r in layer_requests(name, ("forward",), ("jaxconv", "accelerate", "lax"))]
    found = small_records("h100", *requests)
    for (what, task, who), ours in found.items():
        if who != "lax":
            assert ours["calls"] == {"BackwardInput bf16": 1}, (what, who, ours["calls"])
            assert 4 * ours["flop"] <= found[what, task, "lax"]["flop"], what
