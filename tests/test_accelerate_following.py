"""A convolution and what follows it as one call of the CPU kernels: values, transformations, and what is left alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv._accelerate import accelerate
from jaxconv.lowering import cpu

SEED = 20261128
RNG = np.random.default_rng(SEED)
needs_kernels = pytest.mark.skipif(not cpu.available(), reason=f"the compiled kernels are {cpu.status()}")


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(SEED).bit_generator.state


def numbers(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def arrays(channels=6, rank=2, groups=1, dtype=jnp.float32, transposed=False, into=4, k=3, size=9):
    """Operand, kernel, and what a row of a network has for its channels."""
    w = (*(k,) * rank, into // groups, channels) if not transposed else (*(k,) * rank, channels // groups, into)
    named = {name: numbers(channels, dtype=dtype) for name in ("bias", "mean", "gamma", "beta", "slope")}
    named["var"] = jnp.abs(numbers(channels, dtype=dtype)) + 0.5
    return numbers(2, *(size,) * rank, into, dtype=dtype), numbers(*w, dtype=dtype), named


def normalised(y, a):
    """Batch normalisation in evaluation, as flax.nnx writes it."""
    return (y - a["mean"]) * (jax.lax.rsqrt(a["var"] + 1e-3) * a["gamma"]) + a["beta"]


FOLLOWING = {
    "bias": lambda y, a: y + a["bias"],
    "bias, ReLU": lambda y, a: jax.nn.relu(y + a["bias"]),
    "ReLU alone": lambda y, a: jnp.maximum(y, 0),
    "normalisation, ReLU6": lambda y, a: jax.nn.relu6(normalised(y, a)),
    "normalisation, leaky": lambda y, a: jax.nn.leaky_relu(normalised(y, a), 0.2),
    "PReLU": lambda y, a: jnp.where(y >= 0, y, a["slope"] * y),
    "PReLU, told by what is below": lambda y, a: (lambda z: jnp.where(z < 0, z * a["slope"][:1], z))(y + 1),
    "residual, PReLU": lambda y, a: (lambda z: jnp.where(z > 0, z, z * a["slope"]))(a["residual"] + normalised(y, a)),
    "residual only": lambda y, a: a["residual"] + y,
    "divided, negated, clipped": lambda y, a: jnp.clip(-(y / a["var"]) - 0.5, 0, 1.5),
    "spread before": lambda y, a: jax.nn.relu(y + jnp.broadcast_to(a["bias"], y.shape)),
    "at most": lambda y, a: jnp.minimum(jnp.minimum(y * 2, 3.0), 1.0),
}


def equations(fn, *args):
    """Names of a function's equations, those of the jitted functions in it included, and of no other jaxpr."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            found.append(eqn.primitive.name)
            if eqn.primitive.name in ("jit", "pjit"):
                inner = eqn.params["jaxpr"]
                visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(fn)(*args).jaxpr)
    return found


def close(got, want, tolerance):
    got, want = (np.asarray(v, np.float64) for v in (got, want))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want[np.isfinite(want)]).max()))


GEOMETRIES = {
    "dense": ({}, {"padding": 1}),
    "filtered": ({"channels": 70, "into": 64}, {"padding": 1}),
    "few": ({"channels": 2, "into": 40}, {"padding": 1}),
    "strided": ({"channels": 20}, {"stride": 2, "dilation": 2, "padding": 3}),
    "depthwise": ({"channels": 40, "into": 40, "groups": 40}, {"padding": 1, "groups": 40}),
    "groups": ({"channels": 24, "into": 12, "groups": 3}, {"groups": 3}),
    "one axis": ({"rank": 1, "size": 50}, {"padding": 2, "dilation": 2}),
    "three axes": ({"rank": 3, "size": 5}, {"padding": 1, "stride": 2}),
}


# All pairs are for the slow run; each epilogue and each geometry comes twice without it.
PAIRS = [
    pytest.param(follows, geometry, marks=[] if (i + j) % 4 == 0 else pytest.mark.slow)
    for i, follows in enumerate(FOLLOWING)
    for j, geometry in enumerate(GEOMETRIES)
]


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])
@pytest.mark.parametrize(("follows", "geometry"), PAIRS)
def test_values_of_one_call(follows, geometry, transposed, x64):
    shapes, params = GEOMETRIES[geometry]
    x, w, a = arrays(**shapes, transposed=transposed)
    face = functools.partial(jc.conv_transpose if transposed else jc.conv, **params)
    a["residual"] = numbers(*jax.eval_shape(face, x, w).shape)

    def layer(x, w, a):
        return FOLLOWING[follows](face(x, w), a)

    fast = accelerate(layer)
    wide = jax.tree.map(lambda v: v.astype(jnp.float64), (x, w, a))
    exact, sums = layer(*wide), float(jnp.abs(face(*wide[:2])).max())  # an activation may leave little of large sums
    np.testing.assert_allclose(np.asarray(fast(x, w, a)), exact, rtol=0, atol=1e-5 * sums)
    found = equations(fast, x, w, a)
    assert found.count("conv_then") == 1 and not {"conv_apply", "conv_adjoint", "add", "max", "select_n"} & set(
        name for name in found[found.index("conv_then") :]
    )
    if cpu.available():
        assert jax.jit(fast).lower(x, w, a).as_text().count("_then_float32") == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_other_formats(geometry, dtype, x64):
    shapes, params = GEOMETRIES[geometry]
    x, w, a = arrays(**shapes, dtype=jnp.dtype(dtype))
    face = functools.partial(jc.conv, **params)
    a["residual"] = numbers(*jax.eval_shape(face, x, w).shape, dtype=jnp.dtype(dtype))

    def layer(x, w, a):
        return FOLLOWING["residual, PReLU"](face(x, w), a)

    exact = layer(*jax.tree.map(lambda v: v.astype(jnp.float64), (x, w, a)))
    got, plain = accelerate(layer)(x, w, a), jax.jit(layer)(x, w, a)
    assert got.dtype == plain.dtype == dtype
    if dtype == "float64":
        return close(got, exact, 1e-13)
    error, before = (np.abs(np.asarray(v, np.float64) - exact).max() for v in (got, plain))
    assert error <= 1.05 * before  # rounded less often
    if cpu.available():
        assert f"_then_{dtype}" in jax.jit(accelerate(layer)).lower(x, w, a).as_text()


def test_batch_axes_and_none():
    _, w, a = arrays()
    for lead in ((), (3,), (2, 2)):
        x = numbers(*lead, 9, 9, 4)
        layer = lambda x: jax.nn.relu(jc.conv(x, w) + a["bias"])  # noqa: E731
        close(accelerate(layer)(x), layer(x), 1e-6)
        assert equations(accelerate(layer), x).count("conv_then") == 1


def test_an_image_that_is_spread_from_a_vector():
    w = numbers(3, 3, 6, 6)
    layer = lambda v: jax.nn.relu(jc.conv(jnp.broadcast_to(v, (2, 9, 9, 6)), w, padding=1) + v)  # noqa: E731
    v = numbers(6)
    close(accelerate(layer)(v), layer(v), 1e-6)
    assert equations(accelerate(layer), v).count("conv_then") == 1


def test_what_is_not_finite_is_as_before():
    x, w, a = arrays(channels=20)
    x = x.at[0, 2, 3, 1].set(jnp.inf).at[1, 5, 5, 0].set(jnp.nan).at[1, 0, 0, 2].set(-jnp.inf)
    for name in ("bias, ReLU", "normalisation, ReLU6", "PReLU", "normalisation, leaky"):

        def layer(x, name=name):
            return FOLLOWING[name](jc.conv(x, w), a)

        got, want = np.asarray(accelerate(layer)(x)), np.asarray(jax.jit(layer)(x))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isposinf(got), np.isposinf(want))
        np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))


# ---------------------------------------------------------------------- what is left alone

X, W, A = arrays()
LEFT = {
    "read elsewhere": (lambda x: (lambda y: (jax.nn.relu(y), y.sum()))(jc.conv(x, W)), 0),
    "a result itself": (lambda x: (lambda y: (jax.nn.relu(y), y))(jc.conv(x, W)), 0),
    "bias read elsewhere": (lambda x: (lambda y: (jax.nn.relu(y), jnp.tanh(y)))(jc.conv(x, W) + A["bias"]), 1),
    "a curve": (lambda x: jnp.tanh(jc.conv(x, W) + A["bias"]), 1),
    "after a curve": (lambda x: jnp.tanh(jc.conv(x, W)) + A["bias"], 0),
    "two sums": (lambda x: jc.conv(x, W) + x[..., :7, :7, :1] + x[..., 2:, 2:, :1], 0),
    "a number a position": (lambda x: jc.conv(x, W) * x[..., :7, :7, :1], 0),
    "a sum that is scaled": (lambda x: 2 * (jc.conv(x, W) + jc.conv(x, 2 * W)), 1),
    "after an activation": (lambda x: jax.nn.relu(jc.conv(x, W)) * A["bias"], 1),
    "where another one is positive": (lambda x: (lambda y: jnp.where(y + 1 > 0, y, 0.1 * y))(jc.conv(x, W)), 0),
    "its own square": (lambda x: (lambda y: y * y)(jc.conv(x, W)), 0),
    "a maximum that is not zero": (lambda x: jnp.maximum(jc.conv(x, W), 0.5), 0),
    "zero minus it, by axes": (lambda x: jnp.swapaxes(jc.conv(x, W), 1, 2) + A["bias"], 0),
    "squeezed": (lambda x: jax.nn.relu(jc.conv(x, W).reshape(2, -1) + 1), 0),
    "two convolutions added": (lambda x: jax.nn.relu(jc.conv(x, W) + jc.conv(x, 2 * W)), 1),
    "integers": (lambda x: jc.conv((9 * x).astype("int8"), W.astype("int8"), preferred_element_type="int32") + 3, 0),
    "other axes' biases": (lambda x: jc.conv(x, W) + jnp.arange(7.0)[:, None], 0),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_alone(name):
    fn, calls = LEFT[name]
    got, want = accelerate(fn)(X), jax.jit(fn)(X)
    jax.tree.map(lambda a, b: close(a, b, 3e-6), got, want)
    assert equations(accelerate(fn), X).count("conv_then") == calls


def test_other_formats_in_between(x64):
    """What is asked for in double precision is not computed in single, and what is to be rounded is."""
    bias = numbers(6, dtype=jnp.float64)

    def through(dtype):
        return lambda x: (jc.conv(x, W).astype(dtype) + bias.astype(dtype)).astype(jnp.float32)

    for dtype in ("float64", "bfloat16"):
        assert "conv_then" not in equations(accelerate(through(dtype)), X)
        close(accelerate(through(dtype))(X), jax.jit(through(dtype))(X), 1e-6)


# ---------------------------------------------------------------------- transformations


def block(x, w, a):
    """Two rows and a residual sum."""
    y = jax.nn.relu(normalised(jc.conv(x, w, padding=1), a))
    return jax.nn.relu(normalised(jc.conv(y, w, padding=1), a) + x)


B = arrays(channels=4)


def test_derivatives_are_those_of_the_function():
    loss = lambda fn: lambda *args: jnp.sum(fn(*args) ** 2)  # noqa: E731
    fast = accelerate(block)
    got, want = (jax.grad(loss(fn), argnums=(0, 1, 2))(*B) for fn in (fast, block))
    jax.tree.map(lambda a, b: close(a, b, 3e-5), got, want)
    got, want = (jax.jvp(fn, B, B)[1] for fn in (fast, block))
    close(got, want, 1e-5)
    second = lambda fn: jax.grad(lambda x: jnp.sum(jax.grad(loss(fn))(x, *B[1:]) ** 2))(B[0])  # noqa: E731
    close(second(fast), second(block), 1e-4)
    around = accelerate(jax.grad(loss(block)))
    close(around(*B), jax.grad(loss(block))(*B), 3e-5)


def test_mapped_scanned_checkpointed_and_twice():
    fast, (x, w, a) = accelerate(block), B
    many = jnp.stack([x, 2 * x, -x])
    close(jax.vmap(fast, (0, None, None))(many, w, a), jax.vmap(block, (0, None, None))(many, w, a), 1e-5)
    kernels = jnp.stack([w, 2 * w])
    close(jax.vmap(fast, (None, 0, None))(x, kernels, a), jax.vmap(block, (None, 0, None))(x, kernels, a), 1e-5)
    twice = accelerate(fast)
    close(twice(x, w, a), block(x, w, a), 1e-5)
    assert equations(twice, x, w, a).count("conv_then") == 2

    def scanned(x):
        return jax.lax.scan(lambda y, _: (0.3 * block(y, w, a), None), x, length=3)[0]

    close(accelerate(scanned)(x), scanned(x), 1e-5)
    kept = lambda fn: jax.grad(lambda x: jnp.sum(jax.checkpoint(fn)(x, w, a) ** 2))(x)  # noqa: E731
    close(kept(fast), kept(block), 3e-5)
    close(accelerate(lambda x: kept_sum(x))(x), kept_sum(x), 1e-5)


@jax.checkpoint
def kept_sum(x):
    return jnp.sum(block(x, *B[1:]) ** 2)


def test_the_transpose_of_what_is_linear():
    linear = lambda x: 3 * jc.conv(x, W)  # noqa: E731
    fast = accelerate(linear)
    assert "conv_then" in equations(fast, X)
    y = numbers(2, 7, 7, 6)
    (got,), (want,) = (jax.linear_transpose(fn, X)(y) for fn in (fast, linear))
    close(got, want, 1e-5)


def test_exported_for_three_platforms():
    fast, (x, w, a) = accelerate(block), B
    exported = jax.export.export(jax.jit(fast), platforms=["cpu", "cuda", "tpu"])(x, w, a)
    assert "_then_" not in exported.mlir_module()
    close(jax.export.deserialize(exported.serialize()).call(x, w, a), block(x, w, a), 1e-5)


def test_without_kernels_the_equations_run(monkeypatch):
    monkeypatch.setattr(cpu, "available", lambda: False)
    jc.lowering.choose.cache_clear()
    try:
        fast = accelerate(block)
        close(fast(*B), block(*B), 1e-5)
        assert "ffi" not in jax.jit(fast).lower(*B).as_text() and "_then_" not in jax.jit(fast).lower(*B).as_text()
    finally:
        jc.lowering.choose.cache_clear()


@needs_kernels
def test_very_large_kernels_stay_with_transforms():
    x, w = numbers(1, 64, 64, 1), numbers(41, 41, 1, 1)
    layer = lambda x, w: jax.nn.relu(jc.conv(x, w, padding=20) + 1)  # noqa: E731
    assert "_then_" not in jax.jit(accelerate(layer)).lower(x, w).as_text()
    close(accelerate(layer)(x, w), jax.nn.relu(jc.conv(x, w, padding=20, method="lax") + 1), 1e-5)


def test_analysis_sees_through():
    layer = lambda x: jax.nn.relu(jc.conv(x, W, stride=2, dilation=2) + 1)  # noqa: E731
    x = jax.ShapeDtypeStruct((1, 33, 33, 4), jnp.float32)
    plain, fast = (jc.analysis.receptive_field(fn, x) for fn in (layer, accelerate(layer)))
    assert str(plain) == str(fast)


def test_the_report_names_each_convolution_once():
    assert [row.face for row in accelerate.report(accelerate(block), *B)] == [None, None]
    reasons = {row.reason for row in accelerate.report(accelerate(block), *B)}
    assert reasons == {"already the face apply"}


@needs_kernels
def test_an_epilogue_of_another_size_is_refused():
    def call(scale, residual):
        target = cpu.target("apply_then", "float32")
        sizes = np.array([1, 1, 9, 1, 1, 3, 1, 1, 7, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 4, 6, 2, 0], np.int64)
        result = jax.ShapeDtypeStruct((2, 7, 6), jnp.float32)
        more = {"sizes": sizes, "rectify": np.int64(0), "most": np.float64(np.inf)}
        nothing = jnp.zeros(0)
        return jax.ffi.ffi_call(target, result)(
            jnp.ones((2, 9, 4)), jnp.ones((3, 4, 6)), scale, nothing, nothing, residual, **more
        )

    np.testing.assert_array_equal(call(jnp.full(6, 2.0), jnp.ones((2, 7, 6))), 25)
    for scale, residual in ((jnp.ones(5), jnp.zeros(0)), (jnp.ones(6), jnp.ones((2, 7, 5)))):
        with pytest.raises(Exception, match="not of the result's size"):
            call(scale, residual).block_until_ready()
