"""Derivatives of any order and batched calls stay faces, which the choice lowers one by one."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv import lowering
from jaxconv.geometry import ConvGeometry
from jaxconv.trilinear import FACES, adjoint, apply, kernel


def faces_in(jaxpr):
    """How often each face stands in a jaxpr, inner ones included."""
    names = {primitive.name: face for primitive, face in FACES.items()}
    found = collections.Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in names:
            found[names[eqn.primitive.name]] += 1
        assert eqn.primitive.name not in ("conv_general_dilated", "while", "scan"), eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += faces_in(inner)
    return found


X, W = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))


def energy(x, w):
    return jnp.sum(jnp.sin(jc.conv(x, w, stride=2, padding=1)))


def test_gradients_of_gradients_are_faces():
    """The jaxpr of a gradient holds the three faces once each; that of a second gradient holds faces alone."""
    first = jax.make_jaxpr(jax.grad(energy, (0, 1)))(X, W)
    assert faces_in(first.jaxpr) == {"apply": 1, "adjoint": 1, "kernel": 1}

    def squared(x, w):
        return sum(jnp.sum(g**2) for g in jax.grad(energy, (0, 1))(x, w))

    # Both operands of each of the three faces get a gradient: by the other two faces of the same form. The gradients'
    # own three are there too.
    second = jax.make_jaxpr(jax.grad(squared, (0, 1)))(X, W)
    assert faces_in(second.jaxpr) == {"apply": 3, "adjoint": 3, "kernel": 3}
    forward_over_reverse = jax.make_jaxpr(lambda v: jax.jvp(jax.grad(energy), (X, W), (v, 0 * W))[1])(X)
    assert set(faces_in(forward_over_reverse.jaxpr)) == {"apply", "adjoint"}


def test_gradients_of_gradients_take_the_chosen_lowering():
    """A face in a second derivative is lowered as the face alone is: a large strided kernel without stuffing zeros."""
    y, w = jnp.ones((1, 8, 8, 21)), jnp.ones((16, 16, 21, 21))
    geometry = ConvGeometry.resolve_transpose(input_size=(8, 8), kernel_size=(16, 16), stride=8, padding=4)
    call = lowering.Call("adjoint", geometry, 1, 21, 21, np.dtype("float32"), np.dtype("float32"), None, "cpu")
    assert lowering.choose(call) != "lax"

    def dilations(method):
        def loss(y, w):
            return jnp.sum(jc.conv_transpose(y, w, stride=8, padding=4, method=method) ** 2)

        def squared(y, w):
            return jnp.sum(jax.grad(loss)(y, w) ** 2)

        text = jax.jit(jax.grad(squared)).lower(y, w).as_text()
        return set(re.findall(r"lhs_dilate = \[([^\]]*)\]", text))

    assert "8, 8" in dilations("lax") and "8, 8" not in dilations("auto")


@pytest.mark.parametrize("face", ["apply", "adjoint", "kernel"])
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_is_one_face_and_no_loop(face, mapped):
    """Kernels too: the mapped axis becomes channels or groups of a single call, whatever platform it is lowered for."""
    g = ConvGeometry.resolve(input_size=(8, 8), kernel_size=(3, 3), stride=2, padding=1)
    x, w, y = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6)), jnp.ones((2, 4, 4, 6))
    f, operands = {"apply": (apply, (x, w)), "adjoint": (adjoint, (y, w)), "kernel": (kernel, (x, y))}[face]
    stacked = [jnp.stack([a] * 3) if axis == 0 else a for a, axis in zip(operands, mapped, strict=True)]
    many = jax.vmap(lambda a, b: f(a, b, geometry=g), mapped)
    assert faces_in(jax.make_jaxpr(many)(*stacked).jaxpr) == {face: 1}
    text = jax.jit(many).lower(*stacked).as_text()
    assert "stablehlo.while" not in text


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("face", ["apply", "adjoint", "kernel"])
def test_half_precision_is_as_accurate_as_accumulating_in_float32(face, dtype):
    """Every lowering's error against float64 is that of one rounding of the exact result, and no larger than lax's."""
    g = ConvGeometry.resolve(input_size=(24, 24), kernel_size=(3, 3), stride=1, dilation=2, padding=2)
    rng = np.random.default_rng(5)
    shapes = {"x": (4, 24, 24, 32), "w": (3, 3, 32, 48), "y": (4, 24, 24, 48)}
    a = {k: jnp.asarray(rng.standard_normal(s), dtype) for k, s in shapes.items()}
    f, names = {"apply": (apply, "xw"), "adjoint": (adjoint, "yw"), "kernel": (kernel, "xy")}[face]
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a[n], np.float64)) for n in names]
        want = np.asarray(f(*wide, geometry=g, method="lax"))

    def error(got):
        return np.sqrt(np.mean((np.asarray(got, np.float64) - want) ** 2) / np.mean(want**2))

    def layer(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), g.pads, rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    _, pull = jax.vjp(layer, a["x"], a["w"])
    lax_own = error({"apply": lambda: layer(a["x"], a["w"]), "adjoint": lambda: pull(a["y"])[0],
                     "kernel": lambda: pull(a["y"])[1]}[face]())  # fmt: skip
    rounding = error(want.astype(dtype))
    call = lowering.Call.of(face, g, *(a[n] for n in names), out_dtype=dtype, platform="cpu", runs_here=True)
    for method, lowered in lowering.METHODS.items():
        if lowered.serves(call):
            ours = error(f(*(a[n] for n in names), geometry=g, method=method))
            assert ours <= 1.05 * rounding, (method, ours, rounding)
            assert ours <= 1.05 * lax_own, (method, ours, lax_own)
