"""What accelerators are handed, read off the lowered programs: no accelerator, and no compiler of one, is needed."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import ways
from cases import Case

import jaxconv as jc
from jaxconv import _compat, lowering
from jaxconv.geometry import ConvGeometry
from jaxconv.trilinear import adjoint, apply, kernel

SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
# One geometry that each lowering serves, with groups and without; two taps at least.
GEOMETRIES = {
    "strided": (ConvGeometry.resolve(input_size=(8, 8), kernel_size=(4, 4), stride=2, padding=1), 4, 6),
    "plain": (ConvGeometry.resolve(input_size=(8, 8), kernel_size=(3, 3), padding=1), 4, 6),
    "atrous": (ConvGeometry.resolve(input_size=(8, 8), kernel_size=(3, 3), dilation=2, padding=2), 4, 6),
    "patchwise": (ConvGeometry.resolve(input_size=(8, 8), kernel_size=(2, 2), stride=2), 4, 6),
    "volume": (ConvGeometry.resolve(input_size=(4, 4, 5), kernel_size=(2, 2, 2), stride=2), 4, 6),
    "grouped": (ConvGeometry.resolve(input_size=(8, 8), kernel_size=(3, 3), padding=1, groups=2), 4, 6),
    "depthwise": (ConvGeometry.resolve(input_size=(8, 8), kernel_size=(4, 4), stride=2, padding=1, groups=4), 4, 4),
}


def lowered(f, platform, *operands):
    return jax.jit(f).trace(*operands).lower(lowering_platforms=(platform,)).as_text()


def products(text):
    """(types of both operands, type of the result) of every convolution and matrix product in a lowered program."""
    found = re.findall(r"stablehlo\.(?:convolution|dot_general)\b.*: \((.*?), (.*?)\) -> (\S+)", text)
    return {tuple(t.strip("<>").split("x")[-1] for t in types) for types in found}


def calls(geometry, channels_in, channels_out, dtype):
    batch, rank = 2, geometry.rank
    x = jnp.ones((batch, *geometry.input_size, channels_in), dtype)
    w = jnp.ones((*geometry.kernel_size, channels_in // geometry.groups, channels_out), dtype)
    y = jnp.ones((batch, *geometry.output_size, channels_out), dtype)
    assert x.ndim == rank + 2
    return {"apply": (apply, x, w), "adjoint": (adjoint, y, w), "kernel": (kernel, x, y)}


def every_face(dtype, **params):
    for name, (geometry, i, o) in GEOMETRIES.items():
        for face, (f, a, b) in calls(geometry, i, o, dtype).items():
            call = lowering.Call(face, geometry, 2, i, o, jnp.dtype(dtype), jnp.dtype(dtype), None, "cuda")
            for method in ("auto", *(name for name, lowered in lowering.METHODS.items() if lowered.serves(call))):
                yield (name, face, method), lambda a, b, f=f, g=geometry, m=method: f(a, b, g, method=m, **params), a, b


@pytest.mark.parametrize(("dtype", "platform"), [("bfloat16", "cuda"), ("float16", "tpu")])
def test_half_precision_products_are_asked_for_in_the_operands_own_type(dtype, platform):
    """Asked for float32, XLA's GPU backend widens the operands of a convolution: twice the bytes, nothing recognised.

    Terms of a sum over taps alone are asked for in float32 (matrix products, which take it without widening): they are
    not rounded before the sum is done.
    """
    half, seen = SHORT[dtype], 0
    for (name, face, method), f, a, b in every_face(dtype):
        found = products(lowered(f, platform, a, b))
        sums = method == "taps" and face != "kernel" and name not in ("depthwise", "patchwise")
        allowed = {(half, half, half), (half, half, "f32")} if sums or method == "taps" else {(half, half, half)}
        assert found <= allowed, (name, face, method, found)
        assert not sums or (half, half, "f32") in found
        seen += len(found)
    assert seen > 40


def test_an_explicit_result_type_is_kept():
    platform = "rocm"
    for case, f, a, b in every_face("bfloat16", out_dtype=jnp.dtype("float32")):
        text = lowered(f, platform, a, b)
        assert products(text) <= {("bf16", "bf16", "f32")}, case
        assert re.search(r"-> \(tensor<[\dx]+xf32>", text)


def test_cpus_and_unknown_platforms_sum_in_float32():
    geometry, i, o = GEOMETRIES["plain"]
    for face, (f, a, b) in calls(geometry, i, o, "bfloat16").items():
        text = lowered(lambda a, b, f=f: f(a, b, geometry, method="lax"), "cpu", a, b)
        assert products(text) == {("f32", "f32", "f32")}, face
    for platform in ("cpu", None):
        assert lowering.Call("apply", geometry, 1, i, o, jnp.dtype("bfloat16"), jnp.dtype("bfloat16"),
                             platform=platform).product_dtype == jnp.float32  # fmt: skip


@pytest.mark.parametrize("face", ["apply", "adjoint", "kernel"])
def test_what_accelerators_run_is_as_accurate_as_one_rounding(face):
    """Their programs, run here: the error against float64 is that of rounding the exact result once."""
    geometry = ConvGeometry.resolve(input_size=(24, 24), kernel_size=(3, 3), stride=1, dilation=2, padding=2)
    rng = np.random.default_rng(5)
    shapes = {"x": (4, 24, 24, 32), "w": (3, 3, 32, 48), "y": (4, 24, 24, 48)}
    names = {"apply": "xw", "adjoint": "yw", "kernel": "xy"}[face]
    a, b = (jnp.asarray(rng.standard_normal(shapes[n]), jnp.bfloat16) for n in names)
    f = {"apply": apply, "adjoint": adjoint, "kernel": kernel}[face]
    with jax.enable_x64(True):
        want = np.asarray(f(*(jnp.asarray(np.asarray(v, np.float64)) for v in (a, b)), geometry, method="lax"))

    def error(got):
        return np.sqrt(np.mean((np.asarray(got, np.float64) - want) ** 2) / np.mean(want**2))

    call = lowering.Call(face, geometry, 4, 32, 48, a.dtype, a.dtype, platform="tpu")
    # jax 0.12's CPU backend adds this one product, fused with its columns, in bfloat16; the tests marked gpu hold it.
    rounded_here = {("im2col", "kernel")} if jax.__version_info__ >= (0, 11) else set()
    for method, lowered_as in lowering.METHODS.items():
        if lowered_as.serves(call) and (method, face) not in rounded_here:
            got = jax.jit(functools.partial(lowering.run, method, call))(a, b)
            assert got.dtype == a.dtype
            assert error(got) <= 1.05 * error(want.astype(a.dtype)), method


def test_gradients_of_a_half_precision_layer_stay_in_its_type():
    """The whole of a training step: value and both gradients, convolution and transposed convolution."""
    x, w, v = (jnp.ones(s, jnp.bfloat16) for s in ((2, 8, 8, 4), (4, 4, 4, 6), (4, 4, 3, 6)))

    def loss(x, w, v):
        y = jax.nn.relu(jc.conv(x, w, stride=2, padding=1))
        return jnp.sum(jc.conv_transpose(y, v, stride=2, padding=1).astype(jnp.float32) ** 2)

    text = lowered(jax.value_and_grad(loss, (0, 1, 2)), "cuda", x, w, v)
    assert products(text) == {("bf16", "bf16", "bf16")}


def by_rule(platform, face, channels=(64, 64), batch=2, **geometry):
    call = lowering.Call(face, ConvGeometry.resolve(**geometry), batch, *channels, jnp.dtype("bfloat16"),
                         jnp.dtype("bfloat16"), None, platform)  # fmt: skip
    return lowering.choose(call)


PLAIN = {"input_size": (32, 32), "kernel_size": (3, 3), "padding": 1}
ATROUS = {"input_size": (32, 32), "kernel_size": (3, 3), "dilation": 4, "padding": 4}
STRIDED = {"input_size": (32, 32), "kernel_size": (4, 4), "stride": 2, "padding": 1}
BLOCKS = {"input_size": (32, 32), "kernel_size": (2, 2), "stride": 2}
LINE = {"input_size": (32,), "kernel_size": (2,), "stride": 2}
VOLUME = {"input_size": (8, 8, 8), "kernel_size": (2, 2, 2), "stride": 2}
LARGE = {"input_size": (256, 256), "kernel_size": (64, 64), "stride": 32, "padding": 16}


@pytest.mark.parametrize(
    ("platform", "face", "geometry", "channels", "method"),
    [
        # GPUs: cuDNN's own form, and each exception on both of its sides
        *[("cuda", face, PLAIN, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("cuda", face, STRIDED, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("cuda", face, BLOCKS, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        ("cuda", "apply", ATROUS, (64, 64), "lax"),
        ("cuda", "adjoint", ATROUS, (64, 64), "lax"),
        ("cuda", "kernel", ATROUS, (64, 64), "space_to_batch"),
        ("cuda", "kernel", {**ATROUS, "dilation": 12, "padding": 12}, (64, 64), "space_to_batch"),
        ("cuda", "kernel", {**ATROUS, "dilation": 24, "padding": 24}, (64, 64), "taps"),
        ("cuda", "kernel", {**ATROUS, "dilation": 36, "padding": 36}, (64, 64), "taps"),
        ("cuda", "adjoint", {**ATROUS, "dilation": 24, "padding": 24}, (64, 64), "lax"),
        ("cuda", "kernel", {**ATROUS, "dilation": 24, "padding": 24, "groups": 64}, (64, 64), "space_to_batch"),
        ("cuda", "apply", {**ATROUS, "groups": 64}, (64, 64), "space_to_batch"),
        ("cuda", "kernel", {**ATROUS, "stride": 2}, (64, 64), "taps"),
        ("cuda", "apply", {**ATROUS, "stride": 2}, (64, 64), "lax"),
        *[("cuda", face, {**STRIDED, "groups": 64}, (64, 64), "taps") for face in ("apply", "adjoint", "kernel")],
        ("cuda", "adjoint", STRIDED, (3, 64), "phases"),
        ("cuda", "apply", STRIDED, (3, 64), "lax"),
        ("cuda", "adjoint", LARGE, (21, 21), "phases"),
        ("cuda", "apply", LARGE, (21, 21), "lax"),
        ("cuda", "apply", VOLUME, (64, 64), "fold"),
        ("cuda", "adjoint", VOLUME, (64, 64), "fold"),
        ("cuda", "kernel", VOLUME, (64, 64), "im2col"),
        ("rocm", "kernel", ATROUS, (64, 64), "space_to_batch"),
        # TPUs
        *[("tpu", face, PLAIN, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, ATROUS, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, STRIDED, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, {**STRIDED, "groups": 64}, (64, 64), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, BLOCKS, (64, 64), "fold") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, VOLUME, (64, 64), "fold") for face in ("apply", "adjoint", "kernel")],
        ("tpu", "adjoint", BLOCKS, (128, 256), "lax"),
        ("tpu", "adjoint", {**BLOCKS, "kernel_size": (4, 4), "stride": 4}, (128, 256), "fold"),
        ("tpu", "adjoint", VOLUME, (128, 256), "lax"),
        *[("tpu", face, VOLUME, (128, 256), "fold") for face in ("apply", "kernel")],
        ("tpu", "adjoint", {**VOLUME, "kernel_size": (4, 4, 4), "stride": 4}, (128, 256), "lax"),
        ("tpu", "adjoint", VOLUME, (1, 16), "fold"),
        *[("tpu", face, {**VOLUME, "batch": 8}, (8, 16), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, {**VOLUME, "batch": 16}, (63, 128), "lax") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, {**VOLUME, "batch": 8}, (4, 8), "fold") for face in ("apply", "adjoint", "kernel")],
        *[("tpu", face, {**VOLUME, "batch": 8}, (64, 128), "fold") for face in ("apply", "adjoint", "kernel")],
        ("tpu", "apply", {**VOLUME, "batch": 12}, (32, 64), "fold"),
        ("tpu", "apply", {**BLOCKS, "batch": 8}, (64, 128), "fold"),
        *[
            ("tpu", face, LINE, (128, 256), m)
            for face, m in (("apply", "fold"), ("adjoint", "lax"), ("kernel", "fold"))
        ],
        *[("tpu", face, LINE, (32, 64), m) for face, m in (("apply", "fold"), ("adjoint", "lax"), ("kernel", "lax"))],
        *[("tpu", face, LINE, (1, 16), "fold") for face in ("apply", "adjoint", "kernel")],
        ("tpu", "apply", {**BLOCKS, "groups": 2}, (64, 64), "lax"),
        ("tpu", "apply", {**BLOCKS, "padding": 1}, (64, 64), "lax"),
        ("tpu", "adjoint", LARGE, (21, 21), "phases"),
        ("tpu", "apply", LARGE, (21, 21), "lax"),
        ("tpu", "kernel", LARGE, (21, 21), "lax"),
    ],
)
def test_each_branch_of_the_rules(platform, face, geometry, channels, method):
    assert by_rule(platform, face, channels, **geometry) == method


@pytest.mark.parametrize(
    ("platform", "face", "changed", "channels", "one"),
    [
        ("tpu", "adjoint", {}, 4, True),
        ("tpu", "adjoint", {}, 8, False),
        ("tpu", "adjoint", {}, 31, False),
        ("tpu", "adjoint", {}, 32, True),
        ("tpu", "adjoint", {"input_size": (32, 32, 44)}, 8, True),
        ("tpu", "adjoint", {"kernel_size": (1, 2, 2), "stride": (1, 2, 2)}, 8, True),
        ("tpu", "apply", {}, 8, True),
        ("cuda", "adjoint", {}, 8, True),
    ],
)
def test_thin_volumes_of_blocks_are_put_together_axis_by_axis_on_tpus(platform, face, changed, channels, one):
    """One product of blocks, or the last axis folded and the other two left to a strided convolution."""
    geometry = ConvGeometry.resolve(**{**VOLUME, "input_size": (16, 32, 32), **changed})
    f, a, b = calls(geometry, channels, 16, "bfloat16")[face]
    text = lowered(lambda a, b: f(a, b, geometry), platform, a, b)
    assert ("stablehlo.dot_general" in text, "stablehlo.convolution" in text) == (one, not one)


BLOCKS_OF = [
    Case((7,), (3,), (3,), (1,), ((0, 2),)),
    Case((6, 9), (2, 4), (2, 4), (1, 1), ((0, 0), (0, 0))),
    Case((6, 9), (3, 2), (2, 2), (1, 1), ((1, 0), (0, 1))),
    Case((4, 6, 7), (2, 2, 2), (2, 2, 2), (1, 1, 1), ((0, 0), (0, 0), (0, 0))),
    Case((5, 6, 3), (2, 2, 2), (2, 2, 2), (1, 1, 1), ((0, 1), (0, 0), (0, 1))),
    # thin and whole tiles of eight: the adjoint folds the last axis alone
    Case((5, 4, 17), (2, 2, 2), (2, 2, 2), (1, 1, 1), ((0, 0), (0, 0), (0, 0)), channels=(8, 2), batch=1),
]


@pytest.mark.parametrize("case", BLOCKS_OF, ids=str)
def test_fold_is_the_definition_where_blocks_do_not_fill_the_image(case, x64):
    x, w, y = map(jnp.asarray, case.arrays())
    faces = {
        "apply": (x, w, reference.conv(x, w, case.record, case.groups)),
        "adjoint": (y, w, reference.conv_transpose(y, w, case.record, case.groups)),
        "kernel": (x, y, reference.conv_kernel(x, y, case.record, case.groups)),
    }
    for face, (a, b, want) in faces.items():
        call = dataclasses.replace(ways.call(case, face), platform="tpu", batch=a.shape[0])
        assert lowering.METHODS["fold"].serves(call)
        got = jax.jit(functools.partial(lowering.run, "fold", call))(a, b)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu", "cpu"])
def test_a_flip_of_the_callers_cannot_cancel_the_one_that_gpus_look_for(platform):
    """Two flips in a row are none, and cuDNN is then asked to multiply the zeros between strided positions."""
    x, w = jnp.ones((1, 6, 6, 8), jnp.bfloat16), jnp.ones((4, 4, 8, 8), jnp.bfloat16)
    up = jc.accelerate(lambda x, w: jax.lax.conv_transpose(x, w, (2, 2), "SAME"))
    text = lowered(up, platform, x, w)
    barriers = len(re.findall("optimization_barrier", text))
    assert barriers == (1 if platform in ("cuda", "rocm") else 0), text
    plain = jc.accelerate(lambda x, w: jax.lax.conv_transpose(x, w, (1, 1), "SAME"))
    assert "optimization_barrier" not in lowered(plain, platform, x, w)


@pytest.fixture
def v6e():
    """Programs for TPUs are for this one, which is not here."""
    _compat.compile_for_chip("TPU v6 lite")
    yield
    _compat.compile_for_chip(None)


@pytest.mark.parametrize(
    ("channels", "groups", "held"),
    [
        ((128, 256), 1, True),
        ((80, 384), 1, True),
        ((64, 256), 1, False),
        ((144, 256), 1, False),
        ((128, 192), 1, False),
        ((128, 320), 1, False),
        ((128, 256), 2, False),
    ],
)
def test_a_v6e_holds_the_adjoints_kernel_with_128_input_channels_innermost(channels, groups, held, v6e):
    geometry = ConvGeometry.resolve(**{**STRIDED, "groups": groups})
    for face, (f, a, b) in calls(geometry, *channels, "bfloat16").items():
        text = lowered(lambda a, b, f=f: f(a, b, geometry), "tpu", a, b)
        assert ("LayoutConstraint" in text) == (held and face == "adjoint"), face
        assert "LayoutConstraint" not in lowered(lambda a, b, f=f: f(a, b, geometry), "cuda", a, b)


def test_only_a_program_for_one_chip_that_is_known_holds_a_kernel(v6e):
    geometry = ConvGeometry.resolve(**STRIDED)
    f, y, w = calls(geometry, 128, 256, "bfloat16")["adjoint"]
    program = jax.jit(lambda y, w: f(y, w, geometry))
    assert "LayoutConstraint" in lowered(program, "tpu", y, w)
    twice = jax.vmap(jax.grad(lambda y, w: jnp.sum(f(y, w, geometry).astype(jnp.float32) ** 2)), in_axes=(0, None))
    assert "LayoutConstraint" in lowered(twice, "tpu", y[None], w)
    exported = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(y, w)
    assert "LayoutConstraint" not in exported.mlir_module()
    for chip in ("TPU v5 lite", None):
        _compat.compile_for_chip(chip)
        assert "LayoutConstraint" not in lowered(lambda y, w: f(y, w, geometry), "tpu", y, w)
    assert _compat.chip("tpu") is None and _compat.chip("cuda") is None


HELD = [
    Case((9,), (5,), (3,), (2,), ((4, 3),), channels=(3, 8)),
    Case((6, 9), (4, 3), (2, 1), (1, 2), ((1, -1), (0, 5)), channels=(4, 8)),
    Case((4, 5, 3), (2, 1, 3), (2, 1, 1), (1, 1, 1), ((0, 0), (2, 0), (1, 1)), channels=(3, 12), batch=1),
    Case((5, 4), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), channels=(4, 8), batch=0),
]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("case", HELD, ids=str)
def test_a_kernel_that_is_held_is_the_definition(case, dtype, x64, monkeypatch):
    monkeypatch.setattr(lowering.lax, "LANES", 4)
    _, w, y = map(jnp.asarray, case.arrays(dtype))
    call = dataclasses.replace(
        ways.call(case, "adjoint"), platform="tpu", batch=case.batch, chip="TPU v6 lite", dtype=dtype, out_dtype=dtype
    )
    held = jax.jit(functools.partial(lowering.run, "lax", call))
    assert ("LayoutConstraint" in held.lower(y, w).as_text()) == (case.batch > 0)
    np.testing.assert_allclose(held(y, w), reference.conv_transpose(y, w, case.record, case.groups), atol=1e-12)
