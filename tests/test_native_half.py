"""bfloat16 and float16 through the compiled CPU kernels: read as they are, added up in float32, rounded once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_core_faces import error
from test_native import built, narrow_groups, text

import jaxconv as jc
from jaxconv import trilinear
from jaxconv.benchmark.cases import Layer, random_layers
from jaxconv.lowering import METHODS, Call, cpu

pytestmark = built
HALVES = ("bfloat16", "float16")
FACES = {"apply": ("x", "w"), "adjoint": ("y", "w"), "kernel": ("x", "y")}
# The most that rounding once can be, root mean square: sqrt(1/12) of a unit of the last place.
ROUNDED = {"bfloat16": 2.0**-7 / 12**0.5, "float16": 2.0**-10 / 12**0.5}


def channels():
    """Every count of channels from 1 to 20, odd and even, with taps enough to be added up in several steps."""
    for count in range(1, 21):
        yield Layer(f"{count} -> {21 - count}", 1, (7, 11), count, 21 - count, (7, 5), 1 + count % 2, 1, 3)
    yield Layer("300 -> 70, taps in steps", 1, (6, 9), 300, 70, (3, 3), 1, 1, 1)
    yield Layer("40 groups of 1", 2, (9, 12), 40, 40, (3, 3), 2, 1, 1, 40)
    yield Layer("4 groups of 9 -> 7", 2, (9, 12), 36, 28, (3, 3), 1, 2, 1, 4)
    yield Layer("33 -> 2 on one axis", 2, (90,), 33, 2, (9,), 2, 1, 4)
    yield Layer("5 -> 19 on three axes", 1, (5, 6, 7), 5, 19, (3, 2, 3), (1, 2, 1), 1, 1)


def check(layer, dtype, seed=0):
    """Every face against the reference lowering in float64, on the same rounded operands."""
    rng = np.random.default_rng(seed)
    arrays = {k: jnp.asarray(rng.standard_normal(s), dtype) for k, s in layer.shapes.items()}
    for face, names in FACES.items():
        got, want = (
            jax.jit(functools.partial(getattr(trilinear, face), geometry=layer.geometry, method=m))(
                *(arrays[name].astype(d) for name in names)
            )
            for m, d in (("cpu_kernels", dtype), ("lax", "float64"))
        )
        assert got.dtype == dtype
        got, want = np.asarray(got, np.float64), np.asarray(want)
        once = np.asarray(jnp.asarray(want, dtype), np.float64)
        size = np.sqrt(np.mean(want**2))
        assert np.sqrt(np.mean((got - want) ** 2)) <= ROUNDED[dtype] * size + 1e-30, face
        # A sum's own error may carry a number that lies near the middle over it, to the neighbour.
        assert np.abs(got - once).max() <= 2.0 ** -(7 if dtype == "bfloat16" else 10) * np.abs(want).max(), face
        assert np.mean(got != once) < 0.01, face


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("which", [0, 7, 20, 21, 22, 23])
def test_faces_are_rounded_once(x64, dtype, which):
    check(list(channels())[which], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "layer", [pytest.param(one, id=one.name) for one in (*channels(), *narrow_groups(), *random_layers(6, seed=5))]
)
def test_faces_of_many_sizes_are_rounded_once(x64, dtype, layer):
    check(layer, dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_kernels_read_halves_themselves(dtype):
    """No operand is widened before, no result rounded after; another result's dtype is served as before."""
    x, w = jnp.ones((1, 16, 16, 8), dtype), jnp.ones((3, 3, 8, 8), dtype)

    def all_three(x, w):
        out, pull = jax.vjp(functools.partial(jc.conv, method="cpu_kernels"), x, w)
        return out, *pull(out)

    program = text(all_three, x, w)
    assert all(f"jaxconv_{face}_{dtype}" in program for face in FACES) and "convert" not in program
    assert f"jaxconv_apply_{dtype}" in text(jc.conv, x, w)  # the choice's own
    wide = functools.partial(jc.conv, preferred_element_type=jnp.float32, method="cpu_kernels")
    assert "jaxconv_apply_float32" in text(wide, x, w)
    np.testing.assert_array_equal(wide(x, w), np.full((1, 14, 14, 8), 72))
    g = Call.of("apply", jc.ConvGeometry.resolve(input_size=(16, 16), kernel_size=(3, 3)), x, w, out_dtype=x.dtype)
    assert METHODS["cpu_kernels"].takes_half(g) and not METHODS["lax"].takes_half(g)


@pytest.mark.parametrize("dtype", HALVES)
def test_under_transforms(dtype):
    """vmap, jit and grad give what float32 gives, rounded; an exported program calls no kernel."""
    rng = np.random.default_rng(1)
    x, w = (jnp.asarray(rng.integers(-3, 4, s), dtype) for s in ((4, 2, 9, 9, 5), (3, 3, 5, 6)))
    f = functools.partial(jc.conv, padding=1, method="cpu_kernels")
    want = jax.vmap(functools.partial(jc.conv, padding=1, method="lax"), (0, None))(
        x.astype(jnp.float32), w.astype(jnp.float32)
    ).astype(dtype)
    np.testing.assert_array_equal(jax.jit(jax.vmap(f, (0, None)))(x, w), want)

    def loss(w, method, dtype):
        return jnp.sum(jc.conv(x[0].astype(dtype), w.astype(dtype), padding=1, method=method).astype(jnp.float32) ** 2)

    got, exact = (jax.grad(loss)(w.astype(d), m, d) for m, d in (("cpu_kernels", dtype), ("lax", jnp.float32)))
    assert got.dtype == dtype and error(got.astype(jnp.float32), np.asarray(exact)) < 4 * ROUNDED[dtype]
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(x[0], w)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(x[0], w), want[0])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("groups", [1, 24])
def test_what_is_not_finite_stays_where_it_is(dtype, groups):
    """An infinity or NaN reaches the positions and channels that read it, no others; too large sums are infinite."""
    x, w = np.ones((1, 12, 12, 24), np.float32), np.ones((3, 3, 24 // groups, 24), np.float32)
    x[0, 2, 2, 3], x[0, 8, 8, 5] = np.nan, -np.inf
    large = 3e38 if dtype == "bfloat16" else 6e4
    x[0, 2, 8, 7], x[0, 2, 9, 7] = large, large
    half = tuple(jnp.asarray(a, dtype) for a in (x, w))
    wide = (a.astype(jnp.float32) for a in half)
    with np.errstate(invalid="ignore", over="ignore"):
        want = np.asarray(jc.conv(*wide, groups=groups, method="lax").astype(dtype), np.float32)
    got = np.asarray(jc.conv(*half, groups=groups, method="cpu_kernels"), np.float32)
    np.testing.assert_array_equal(got, want)
    assert np.isnan(want).any() and np.isposinf(want).any()


def test_status_knows_the_formats():
    assert set(HALVES) <= set(cpu.DTYPES) == {"float32", "float64", *HALVES}
