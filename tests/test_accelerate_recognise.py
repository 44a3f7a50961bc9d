"""Reading equations: every assignment gives the definition's values, and what jax writes gets its face."""

import collections

import equations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxconv._accelerate import Rewriter, assignments
from jaxconv._accelerate.equation import Equation
from jaxconv._accelerate.face import evaluate

NHWC = ("NHWC", "HWIO", "NHWC")


def read(lhs, rhs, params):
    """The equation that jax writes for these operands, and the abstract value of its result."""
    (eqn,) = jax.make_jaxpr(lambda a, b: lax.conv_general_dilated(a, b, **params))(lhs, rhs).jaxpr.eqns
    out = eqn.outvars[0].aval
    return Equation.read(eqn.params, *(v.aval for v in eqn.invars), out), out


def check_equation(seed):
    lhs, rhs, params, size = equations.random_equation(np.random.default_rng(seed))
    equation, out = read(lhs, rhs, params)
    want = equations.value(lhs, rhs, params, size)
    found = list(assignments(equation))
    for a in found:
        got = jax.jit(lambda p, q, a=a: evaluate(equation, a, p, q, like=out))(lhs, rhs)
        error = np.abs(got - want).max() / max(np.abs(want).max(), 1e-6)
        assert error < 1e-12, f"seed {seed}: {lhs.shape} {rhs.shape} {params} read as {a}: relative error {error}"
    # Independently of the code: some tensor has unit spacing (a single element has any spacing).
    b, d, s = (params[key] for key in ("lhs_dilation", "rhs_dilation", "window_strides"))
    numbers = params["dimension_numbers"]
    sizes = ([lhs.shape[i] for i in numbers.lhs_spec[2:]], [rhs.shape[i] for i in numbers.rhs_spec[2:]], size)
    unit = [all(step == 1 or n == 1 for step, n in zip(*t, strict=True)) for t in zip((b, d, s), sizes, strict=True)]
    assert len(found) == 2 * sum(unit), f"seed {seed}: {params} {lhs.shape} {rhs.shape}"
    return len(found)


def test_every_assignment_of_random_equations(x64):
    counts = collections.Counter(check_equation(seed) for seed in range(8))
    assert set(counts) - {0}, counts


@pytest.mark.slow
def test_every_assignment_of_many_random_equations(x64):
    counts = collections.Counter(check_equation(seed) for seed in range(1000, 1050))
    total = sum(counts.values())
    print(f"of {total} random equations {total - counts[0]} were recognised; readings {counts}")
    assert counts[0] < total // 5


def faces_of(fn, *args):
    _, found = Rewriter()(jax.make_jaxpr(fn)(*args))
    return [(row.assignment.roles, row.assignment.face) if row.assignment else row.reason for row in found]


X, W = jnp.ones((2, 12, 12, 3)), jnp.ones((3, 3, 3, 4))
FORWARD = {
    "plain": lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC),
    "strided": lambda x, w: lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=NHWC),
    "dilated": lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=NHWC),
    "transposed": lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME"),
    "transposed, kernel transposed": lambda x, w: lax.conv_transpose(
        x, jnp.swapaxes(w, 2, 3), (2, 2), "SAME", transpose_kernel=True
    ),
    "grouped": lambda x, w: lax.conv_general_dilated(
        x, jnp.tile(w[:, :, :1], (1, 1, 1, 3)), (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=3
    ),
}
# Roles of (lhs, rhs, result) for: the convolution, its kernel gradient, its input gradient.
EXPECTED = {
    "plain": [("xwy", "apply"), ("xyw", "kernel"), ("xwy", "apply")],
    "strided": [("xwy", "apply"), ("xyw", "kernel"), ("ywx", "adjoint")],
    "dilated": [("xwy", "apply"), ("xyw", "kernel"), ("xwy", "apply")],
    "transposed": [("ywx", "adjoint"), ("yxw", "kernel"), ("xwy", "apply")],
    "transposed, kernel transposed": [("ywx", "adjoint"), ("yxw", "kernel"), ("xwy", "apply")],
    "grouped": [("xwy", "apply"), ("xyw", "kernel"), ("xwy", "apply")],
}


@pytest.mark.parametrize("name", FORWARD)
def test_forms_that_differentiation_leaves_behind(name):
    def gradients(x, w):
        y, pull = jax.vjp(FORWARD[name], x, w)
        return pull(y)

    forward, *backward = faces_of(gradients, X, W)
    assert forward == EXPECTED[name][0]
    assert sorted(backward) == sorted(EXPECTED[name][1:])


def test_kernel_is_the_smallest_and_the_rhs_on_a_tie():
    def conv(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC)

    assert faces_of(conv, jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 2, 2))) == [("xwy", "apply")]
    # A 3x3 kernel on a 2x2 map: the map is smaller, and the equation is read as a kernel gradient. All are listed.
    params = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "dimension_numbers": NHWC}
    equation, _ = read(np.ones((1, 2, 2, 2)), np.ones((3, 3, 2, 2)), params)
    assert [a.roles for a in assignments(equation)] == ["xyw", "yxw", "wyx", "wxy", "xwy", "ywx"]


def test_a_transposed_kernel_larger_than_its_image_stays_the_kernel():
    def up(x, w):
        pads = ((47, 47), (47, 47))
        return lax.conv_general_dilated(x, w, (1, 1), pads, lhs_dilation=(32, 32), dimension_numbers=NHWC)

    x, w = jax.ShapeDtypeStruct((8, 8, 8, 2), jnp.float32), jax.ShapeDtypeStruct((64, 64, 2, 2), jnp.float32)
    assert faces_of(up, x, w) == [("ywx", "adjoint")]
    kernel_gradient = jax.grad(lambda w, x: jnp.sum(up(x, w) ** 2))
    assert ("ywx", "adjoint") in faces_of(kernel_gradient, w, x)


@pytest.mark.parametrize(
    ("fn", "args", "reason"),
    [
        (
            lambda x, w: lax.conv_general_dilated(x, w, (2,), ((0, 0),), (3,), (2,)),
            (jnp.ones((1, 2, 5)), jnp.ones((2, 2, 3))),
            "no tensor has unit spacing on all axes (lhs_dilation (3,), rhs_dilation (2,), window_strides (2,))",
        ),
        (
            lambda x, w: lax.conv_general_dilated(x, w, (), ()),
            (jnp.ones((4, 2)), jnp.ones((3, 2))),
            "no spatial axis: a matrix product",
        ),
        (
            lambda x, w: lax.conv_general_dilated(x, w, (1,), "VALID"),
            (jnp.ones((1, 2, 2)), jnp.ones((2, 2, 3))),
            "an empty array of shape (1, 2, 0)",
        ),
    ],
    ids=["spacings", "no axes", "empty"],
)
def test_what_is_left_alone_says_why(fn, args, reason):
    jaxpr = jax.make_jaxpr(fn)(*args)
    new, found = Rewriter()(jaxpr)
    assert [row.reason for row in found] == [reason]
    assert new is jaxpr


def test_negative_pads_of_a_plain_one_dimensional_convolution(x64):
    """jax 0.10.2 on CPU computes this equation wrongly itself; the definition is the judge."""
    rng = np.random.default_rng(0)
    for pads in [(-1, 1), (1, -1), (-1, 0)]:
        lhs, rhs = rng.standard_normal((2, 9, 3)), rng.standard_normal((3, 3, 4))
        params = {"window_strides": (1,), "padding": (pads,), "lhs_dilation": (1,), "rhs_dilation": (1,)}
        params |= {"feature_group_count": 1, "batch_group_count": 1}
        params["dimension_numbers"] = lax.conv_dimension_numbers(lhs.shape, rhs.shape, ("NWC", "WIO", "NWC"))
        equation, out = read(lhs, rhs, params)
        want = equations.value(lhs, rhs, params, (9 + sum(pads) - 2,))
        got = evaluate(equation, next(assignments(equation)), lhs, rhs, like=out)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=f"pads {pads}")


def test_layout_is_changed_only_where_it_differs():
    """A channels-last convolution becomes one equation; a channels-first one is transposed, once per tensor."""

    def primitives(numbers, lhs, rhs):
        def conv(x, w):
            return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)

        new, _ = Rewriter()(jax.make_jaxpr(conv)(jnp.ones(lhs), jnp.ones(rhs)))
        return [eqn.primitive.name for eqn in new.eqns]

    assert primitives(NHWC, (1, 8, 8, 3), (3, 3, 3, 4)) == ["conv_apply"]
    assert primitives(("NCHW", "OIHW", "NCHW"), (1, 3, 8, 8), (4, 3, 3, 3)) == [
        "transpose", "transpose", "conv_apply", "transpose"
    ]  # fmt: skip
