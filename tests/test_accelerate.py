"""accelerate under transforms and control flow: values equal to the plain function's, and equations became faces."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxconv._accelerate import Rewriter, accelerate

RNG = np.random.default_rng(7)
X = jnp.asarray(RNG.standard_normal((2, 6, 6, 2)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((3, 3, 2, 2)) * 0.4, jnp.float32)


def conv(x, w, stride=1, dilation=1, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * 2,
        "SAME",
        rhs_dilation=(dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def net(x, w):
    """Down, two dilated layers, up: every face appears in its gradient."""
    y = jax.nn.relu(conv(x, w, stride=2))
    y = y + jnp.tanh(conv(y, w, dilation=2))
    return lax.conv_transpose(y, w, (2, 2), "SAME")


def same(got, want, tolerance=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, float(np.abs(b).max())), rtol=0)


def primitives(jaxpr):
    """Names of all primitives of a jaxpr, those in its parameters included."""
    names = set()
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            names |= primitives(inner) if hasattr(inner, "eqns") else set()
    return names


def loss(w, x):
    return jnp.mean(net(x, w) ** 2)


def scanned(x, w):
    def layer(carry, rate):
        return jnp.tanh(conv(carry, w)) * rate, carry.sum()

    return lax.scan(layer, x, jnp.arange(3.0))


def looped(x, w):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(conv(s[1], w))), (0, x))[1]


def branched(x, w):
    return lax.cond(x[0, 0, 0, 0] > 0, lambda v: conv(v, w), lambda v: conv(v, w, dilation=2), x)


def switched(x, w):
    return lax.switch(2, [lambda v: v, lambda v: conv(v, w), lambda v: 2 * conv(v, w)], x)


def rematerialised(x, w):
    layer = jax.checkpoint(lambda v: jnp.tanh(conv(v, w)), policy=jax.checkpoint_policies.nothing_saveable)
    return layer(layer(x))


@jax.custom_jvp
def with_jvp_rule(x, w):
    return conv(x, w)


@with_jvp_rule.defjvp
def _with_jvp_rule(primals, tangents):
    return with_jvp_rule(*primals), 3 * conv(tangents[0], primals[1])


@jax.custom_vjp
def with_vjp_rule(x, w):
    return conv(x, w)


with_vjp_rule.defvjp(lambda x, w: (conv(x, w), (x, w)), lambda res, ct: (5 * ct, jnp.ones_like(res[1])))


def jitted(x, w):
    return jax.jit(conv, static_argnames="stride")(x, w, stride=2)


def mapped_kernels(x, w):
    return jax.vmap(conv, (None, 0))(x, jnp.stack([w, 2 * w]))


def mapped_both(x, w):
    return jax.vmap(lambda a, b: conv(a[None], b))(x, jnp.stack([w, 2 * w]))


def solved(x, w):
    """A linear solve by conjugate gradients: jaxprs in a named tuple of parameters."""
    return jax.scipy.sparse.linalg.cg(lambda v: 2 * v + 0.01 * conv(v, w), x, maxiter=2)[0]


FUNCTIONS = [
    *(net, scanned, looped, branched, switched, rematerialised, with_jvp_rule, with_vjp_rule),
    *(jitted, mapped_kernels, mapped_both, solved),
]


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda f: getattr(f, "__name__", str(f)))
def test_values_and_no_convolution_is_left(fn):
    fast = accelerate(fn)
    same(fast(X, W), jax.jit(fn)(X, W))
    names = primitives(jax.make_jaxpr(fast)(X, W).jaxpr)
    assert "conv_general_dilated" not in names and "conv_apply" in names


@pytest.mark.parametrize(
    "fn", [net, scanned, branched, rematerialised, with_jvp_rule, with_vjp_rule], ids=lambda f: f.__name__
)
def test_grad_outside_and_inside(fn):
    def value(x, w):
        return sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(fn(x, w)))

    want = jax.jit(jax.grad(value, (0, 1)))(X, W)
    same(jax.jit(jax.grad(accelerate(value), (0, 1)))(X, W), want)
    same(accelerate(jax.grad(value, (0, 1)))(X, W), want)


def hvp(f):
    def product(w, x):
        return jax.jvp(lambda v: jax.grad(f)(v, x), (w,), (jnp.cos(w),))[1]

    return product


def reverse_over_reverse(f):
    return jax.grad(lambda w, x: jnp.sum(jax.grad(f)(w, x) * w))


def directional(f):
    return lambda w, x: jax.jvp(f, (w, x), (jnp.sin(w), jnp.cos(x)))


@pytest.mark.parametrize("transform", [directional, hvp, pytest.param(reverse_over_reverse, marks=pytest.mark.slow)])
def test_jvp_and_hvp_outside_and_inside(transform, x64):
    w, x = np.asarray(W, np.float64), np.asarray(X, np.float64)
    want = jax.jit(transform(loss))(w, x)
    same(jax.jit(transform(accelerate(loss)))(w, x), want, 1e-11)
    same(accelerate(jax.jit(transform(loss)))(w, x), want, 1e-11)


def test_second_order_has_only_faces():
    fast = accelerate(lambda w: jnp.sum(jax.grad(loss)(w, X) ** 2))
    names = primitives(jax.make_jaxpr(jax.grad(fast))(W).jaxpr)
    assert "conv_general_dilated" not in names
    assert {"conv_apply", "conv_adjoint", "conv_kernel"} <= names


def test_vmap_of_an_accelerated_function():
    xs, ws = jnp.stack([X, 2 * X]), jnp.stack([W, -W])
    for axes, args in [((0, None), (xs, W)), ((None, 0), (X, ws)), ((0, 0), (xs, ws))]:
        same(jax.jit(jax.vmap(accelerate(net), axes))(*args), jax.jit(jax.vmap(net, axes))(*args))


def test_vmap_axis_names_reach_the_function():
    def centred(x, w):
        y = conv(x, w)
        return y - lax.pmean(y, "batch")

    def mapped(f):
        return jax.jit(jax.vmap(functools.partial(f, w=W), axis_name="batch"))(X[:, None])

    same(mapped(accelerate(centred)), mapped(centred))


def test_traced_once_per_signature():
    traces = []

    @accelerate
    def fn(x, scale, mode="a"):
        traces.append((scale, mode))
        return conv(x, W) * scale if mode == "a" else x

    for _ in range(3):
        fn(X, 2.0)
    fn(X, 3.0)
    fn(X, scale=2.0, mode="b")
    fn(X[:1], 2.0)
    fn(X, 2.0)
    assert traces == [(2.0, "a"), (3.0, "a"), (2.0, "b"), (2.0, "a")]
    jax.jit(fn, static_argnums=1)(X, 2.0)
    assert len(traces) == 4
    assert fn(X, 1, mode="b").dtype == X.dtype


def test_unhashable_static_arguments_are_traced_each_time():
    class Options:
        __hash__ = None

        def __init__(self, factor):
            self.factor = factor

    fast = accelerate(lambda x, o: conv(x, W) * o.factor)
    same(fast(X, Options(2.0)), conv(X, W) * 2.0)
    same(fast(X, Options(3.0)), conv(X, W) * 3.0)


def test_pytrees_keys_closures_and_static_results():
    key = jax.random.key(3)

    def fn(tree, key, *, name):
        y = conv(tree["x"], W) * jax.random.key_data(key)[-1]
        return {"y": y, "key": key, "name": name, "nothing": None, "n": 3, "data": np.arange(2)}

    got = accelerate(fn)({"x": X, "b": [1, "s"]}, key, name="layer")
    assert got["name"] == "layer" and type(got["n"]) is int and got["nothing"] is None
    same((got["y"], got["data"]), (3 * conv(X, W), jnp.arange(2)))
    assert got["key"] == key

    @jax.jit
    def outer(x, w):
        return accelerate(lambda v: conv(v, w))(x)  # closes over a tracer

    same(outer(X, W), conv(X, W))
    got = jax.jit(jax.grad(lambda w: accelerate(lambda v: conv(v, w))(X).sum()))(W)
    same(got, jax.jit(jax.grad(lambda w: conv(X, w).sum()))(W))


def test_decorator_on_functions_methods_and_callables():
    class Layer:
        @accelerate
        def __call__(self, x):
            """A layer."""
            return conv(x, W)

    assert Layer.__call__.__doc__ == "A layer."
    same(Layer()(X), conv(X, W))
    same(accelerate(functools.partial(conv, stride=2))(X, W), conv(X, W, stride=2))
    same(accelerate(accelerate(conv))(X, W), conv(X, W))
    with pytest.raises(TypeError, match="accelerate needs a function, got int"):
        accelerate(3)


def test_scopes_names_and_precision_survive():
    def fn(x, w):
        with jax.named_scope("encoder"):
            x = lax.conv(x, w, (1, 1), "SAME", precision="highest")
        return jax.jit(lambda v: lax.conv(v, w, (1, 1), "SAME", preferred_element_type=jnp.float32), inline=False)(x)

    w = jnp.ones((2, 2, 3, 3), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(accelerate(fn))(jnp.ones((1, 2, 8, 8), jnp.bfloat16), w).jaxpr
    (call,) = jaxpr.eqns
    inner = next(v for v in call.params.values() if hasattr(v, "eqns"))
    face = next(eqn for eqn in inner.eqns if eqn.primitive.name == "conv_apply")
    assert "encoder" in str(face.source_info.name_stack)
    assert face.params["precision"] == (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    nested = next(eqn for eqn in inner.eqns if eqn.primitive.name in ("jit", "pjit"))
    assert nested.params["name"] == "<lambda>"
    assert jaxpr.outvars[0].aval.dtype == jnp.float32


def test_custom_rules_are_the_users():
    fast = accelerate(with_vjp_rule)
    same(jax.grad(lambda x: fast(x, W).sum())(X), jnp.full_like(X, 5.0))
    fast = accelerate(with_jvp_rule)
    same(jax.jvp(lambda x: fast(x, W), (X,), (X,))[1], 3 * conv(X, W))


def test_report_lists_each_convolution():
    def fn(x, w):
        y = scanned(x, w)[0]
        with jax.named_scope("up"):
            y = lax.conv_transpose(y, w, (2, 2), "SAME")
        left = lax.conv_general_dilated(
            y[:, 0].swapaxes(1, 2), w[:, 0], (2,), ((0, 0),), (3,), (2,), ("NCH", "HIO", "NCH")
        )
        return y, left

    report = accelerate.report(fn, jax.ShapeDtypeStruct(X.shape, X.dtype), W)
    assert [row.face for row in report] == ["apply", "adjoint", None]
    assert "scan" in report.rows[0].path and report.rows[1].path.endswith("up")
    assert report.rows[1].geometry.stride == (2, 2) and report.rows[1].geometry.input_size == (12, 12)
    assert report.rows[0].lowering and len(report.rows[0].admissible) == 6
    assert "no tensor has unit spacing" in report.left_alone[0].reason
    text = str(report)
    assert "3 convolutions on" in text and "left alone: no tensor" in text and "2x6x6x2 * 3x3x2x2" in text
    # An accelerated function reports on what it was made of.
    assert [row.face for row in accelerate.report(accelerate(net), X, W)] == ["apply", "apply", "adjoint"]


@pytest.mark.parametrize(("dtype", "preferred"), [(jnp.int8, jnp.int32), (jnp.bfloat16, None)])
def test_dtypes_are_kept(dtype, preferred):
    def fn(x, w):
        return lax.conv_general_dilated(x, w, (2, 2), "SAME", preferred_element_type=preferred)

    x, w = jnp.arange(-50, 50).reshape(1, 4, 5, 5).astype(dtype), jnp.arange(-36, 36).reshape(2, 4, 3, 3).astype(dtype)
    same(accelerate(fn)(x, w).astype(jnp.float32), jax.jit(fn)(x, w).astype(jnp.float32), 1e-2)
    assert accelerate(fn)(x, w).dtype == (preferred or dtype)


def test_the_report_names_layers_scopes_and_lines_but_no_transformation():
    w, x = jax.ShapeDtypeStruct((3, 3, 4, 4), "float32"), jax.ShapeDtypeStruct((1, 8, 8, 4), "float32")

    def convolve(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def named(w, x):
        with jax.named_scope("up"):
            return jnp.mean(convolve(w, x))

    paths = {row.path for row in accelerate.report(jax.vmap(jax.grad(named), (None, 0)), w, _batch_of(x))}
    assert paths == {"up"}
    (row,) = accelerate.report(convolve, w, x)
    assert re.fullmatch(r"test_accelerate\.py:\d+", row.path)
    nnx = pytest.importorskip("flax.nnx")
    conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=nnx.Rngs(0))
    layers = nnx.Sequential(conv(4, 4), nnx.Sequential(jnp.tanh, conv(4, 2)))
    assert [row.path for row in accelerate.report(layers, x)] == ["layers/0", "layers/1/layers/1"]


def _batch_of(x):
    return jax.ShapeDtypeStruct((2, *x.shape), x.dtype)


def test_equations_of_one_type_are_read_once_and_share_no_variable():
    numbers = ("NCHW", "OIHW", "NCHW")  # transpositions stand between the equation and its face

    def layer(x, w, precision):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, precision=precision)

    def layers(x, w):
        return layer(layer(layer(x, w, None), w, None), w, "highest")

    x, w = jnp.ones((1, 2, 5, 5)), jnp.ones((2, 2, 3, 3))
    rewriter = Rewriter()
    new, found = rewriter(jax.make_jaxpr(layers)(x, w))
    assert [row.assignment.face for row in found] == ["apply"] * 3 and len(rewriter._read) == 2
    written = [v for eqn in new.eqns for v in eqn.outvars]
    assert len(set(written)) == len(written) > 6
    precisions = [eqn.params["precision"] for eqn in new.eqns if eqn.primitive.name == "conv_apply"]
    assert precisions[0] is precisions[1] is None and precisions[2] is not None
    np.testing.assert_allclose(accelerate(layers)(x, w), layers(x, w), rtol=1e-5)
