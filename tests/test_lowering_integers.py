"""8-bit integers as float32: exact at the largest sums, cut where they would not be, wrapped as lax's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv import lowering
from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import Call, cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason=f"the compiled kernels are {cpu.status()}")
RNG = np.random.default_rng(20261128)


def call_of(face="apply", groups=1, channels=(8, 8), dtype="int8", out="int32", size=(12, 12), kernel=(3, 3), **params):
    g = ConvGeometry.resolve(input_size=size, kernel_size=kernel, groups=groups, **params)
    return Call(face, g, 1, *channels, np.dtype(dtype), np.dtype(out), None, "cpu", True)


def served(call):
    return lowering.METHODS["integers"].serves(call)


def wide(fn, *operands):
    """The same in 64-bit integers by the definition's own loops in lax."""
    return np.asarray(jax.jit(functools.partial(fn, preferred_element_type="int64", method="lax"))(*operands))


CASES = {
    "largest sums that are exact": (2, (114, 5), {"kernel": (3, 3)}),
    "one product too many": (2, (115, 5), {"kernel": (3, 3)}),
    "seven pieces": (1, (520, 7), {"kernel": (13,)}),
    "strided, dilated": (
        2,
        (40, 6),
        {"kernel": (4, 5), "stride": (2, 3), "dilation": (1, 2), "padding": ((3, 1), (4, -1))},
    ),
    "groups": (2, (24, 36), {"kernel": (3, 3), "groups": 4, "padding": 1}),
    "volumes": (3, (33, 9), {"kernel": (2, 3, 3), "padding": 1, "stride": 2}),
}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("values", ["random", "largest"])
@pytest.mark.parametrize("face", ["apply", "adjoint"])
@pytest.mark.parametrize("case", CASES)
def test_every_sum_is_exact(case, face, values, dtype, x64):
    rank, (i, o), params = CASES[case]
    params = dict(params)
    k, g = params.pop("kernel"), params.get("groups", 1)
    size = (2, *(15,) * rank)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    extreme = low if dtype == "int8" else high  # of the largest square

    def some(*shape):
        drawn = RNG.integers(low, high, shape, endpoint=True) if values == "random" else np.full(shape, extreme)
        return jnp.asarray(drawn, dtype)

    fn = functools.partial(jc.conv if face == "apply" else jc.conv_transpose, **params)
    a, w = (some(*size, i), some(*k, i // g, o)) if face == "apply" else (some(*size, i), some(*k, o // g, i))
    if dtype == "uint8" and case != "groups" and case != "strided, dilated":
        a, w = (a[..., :20], w[..., :20, :]) if face == "apply" else (a[..., :20], w[..., :20])
    got = fn(a, w, preferred_element_type="int32", method="integers")
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(np.asarray(got), wide(fn, a, w))


def test_what_is_served():
    assert served(call_of()) and served(call_of("adjoint")) and served(call_of(dtype="uint8"))
    no = {
        "kernel gradients": call_of("kernel"),
        "a float result": call_of(out="float32"),
        "16 bits": call_of(dtype="int16"),
        "a result without signs": call_of(out="uint32"),
        "floats": call_of(dtype="float32", out="float32"),
        "more than eight pieces": call_of(channels=(1000, 8)),
        "pieces of groups": call_of(channels=(2048, 8), groups=8),
        "more taps than one sum": call_of(size=(64, 64), kernel=(33, 33)),
        "another platform": dataclasses.replace(call_of(), platform="tpu"),
        "several devices": dataclasses.replace(call_of(), runs_here=False),
    }
    assert [why for why, call in no.items() if served(call)] == []


def test_an_adjoint_counts_the_taps_of_one_residue():
    assert served(call_of("adjoint", size=(64, 64), kernel=(33, 33), stride=2))
    assert not served(call_of("adjoint", size=(64, 64), kernel=(33, 33), stride=1))
    assert not served(call_of("adjoint", size=(99, 99), kernel=(33, 33), stride=2, dilation=2))


def test_which_are_chosen():
    assert lowering.choose(call_of("adjoint", stride=2)) == "integers"
    assert lowering.choose(call_of("adjoint", stride=2, channels=(64, 64), groups=4)) == "integers"
    assert lowering.choose(call_of(size=(8, 8, 8), kernel=(3, 3, 3), channels=(32, 32))) == "integers"
    assert lowering.choose(call_of(channels=(64, 64))) != "integers"
    assert lowering.choose(call_of(channels=(64, 64), groups=64)) == "taps"
    assert lowering.choose(call_of(size=(4000,), kernel=(2,), dilation=64, channels=(64, 64))) == "im2col"


def test_narrow_results_wrap_as_lax_does():
    x, w = (jnp.asarray(RNG.integers(-128, 128, s), jnp.int8) for s in ((1, 9, 9, 16), (3, 3, 16, 4)))
    for out in ("int16", "int8"):
        got, want = (jc.conv(x, w, preferred_element_type=out, method=m) for m in ("integers", "lax"))
        assert got.dtype == want.dtype == out
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_jitted_mapped_and_exported():
    x, w = (jnp.asarray(RNG.integers(-128, 128, s), jnp.int8) for s in ((3, 2, 9, 9, 4), (3, 3, 4, 4)))
    fn = functools.partial(jc.conv_transpose, stride=2, preferred_element_type="int32")
    want = jnp.stack([fn(one, w, method="lax") for one in x])
    np.testing.assert_array_equal(jax.jit(fn)(x, w), want)
    np.testing.assert_array_equal(jax.vmap(fn, (0, None))(x, w), want)
    assert "jaxconv_adjoint_float32" in jax.jit(fn).lower(x, w).as_text()
    exported = jax.export.export(jax.jit(fn), platforms=["cpu", "tpu"])(x, w)
    assert "jaxconv_adjoint" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(x, w), want)
