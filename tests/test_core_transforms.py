"""Every transform that a face must live under, on one device; test_core_sharding.py has the meshes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case
from jax.test_util import check_grads
from ways import WAYS

import jaxconv as jc

CASES = {
    "strided, dilated, grouped, 2-D": Case((6, 5), (3, 2), (2, 1), (1, 2), ((1, 1), (0, 2)), groups=2),
    "circular, 1-D": Case((7,), (3,), (2,), (2,), "SAME", mode="circular"),
    "cropped, 3-D": Case((4, 5, 3), (2, 2, 1), (1, 2, 1), (1, 1, 1), ((-1, 1), (1, -1), (0, 0)), batch=1),
}
FACES = ("apply", "adjoint", "kernel")
AUTO = WAYS[0]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_face = pytest.mark.parametrize("face", FACES)


def face_of(face, case, dtype=np.float64):
    """The face as a function of its two operands, and operands."""
    x, w, y = case.arrays(dtype)
    operands = {"apply": (x, w), "adjoint": (y, w), "kernel": (x, y)}[face]
    return functools.partial(getattr(AUTO, face), case=case), tuple(map(jnp.asarray, operands))


@every_case
@every_face
def test_jit_changes_nothing(face, case):
    f, (a, b) = face_of(face, case, np.float32)
    chex.assert_trees_all_close(jax.jit(f)(a, b), f(a, b), rtol=1e-5, atol=1e-5)


@every_case
@every_face
def test_first_and_second_order_gradients_in_both_modes(face, case, x64):
    f, operands = face_of(face, case)
    check_grads(f, operands, order=2, modes=("fwd", "rev"), rtol=1e-6, atol=1e-6)


@every_face
def test_hessian_vector_products_by_forward_over_reverse_and_reverse_over_reverse(face, x64):
    f, (a, b) = face_of(face, CASES["strided, dilated, grouped, 2-D"])

    def loss(a, b):
        return jnp.sum(jnp.sin(f(a, b)))

    gradient = jax.grad(loss, argnums=(0, 1))
    tangent = (jnp.cos(a), jnp.sin(b))
    forward = jax.jvp(gradient, (a, b), tangent)[1]
    reverse = jax.grad(
        lambda a, b: sum(jnp.vdot(g, t) for g, t in zip(gradient(a, b), tangent, strict=True)), argnums=(0, 1)
    )
    chex.assert_trees_all_close(forward, reverse(a, b), rtol=1e-10)
    step = 1e-5
    plus, minus = (gradient(a + e * tangent[0], b + e * tangent[1]) for e in (step, -step))
    chex.assert_trees_all_close(
        forward, jax.tree.map(lambda p, m: (p - m) / (2 * step), plus, minus), rtol=1e-6, atol=1e-6
    )


AXES = ((0, None), (None, 0), (0, 0), (2, 1), (-1, None), (None, -1))


@every_face
@pytest.mark.parametrize(
    "case, in_axes",
    [
        pytest.param(case, axes, id=f"{name}, {axes}")
        for place, (name, case) in enumerate(CASES.items())
        for axes in (AXES if place == 0 else AXES[3:4])
    ],
)
def test_vmap_over_either_operand_or_both(face, case, in_axes):
    f, operands = face_of(face, case, np.float32)
    size = 3
    mapped = [
        op if axis is None else jnp.stack([op * (i + 1) + i for i in range(size)], axis)
        for op, axis in zip(operands, in_axes, strict=True)
    ]
    want = jnp.stack(
        [f(*(m if a is None else jnp.take(m, i, a) for m, a in zip(mapped, in_axes, strict=True))) for i in range(size)]
    )
    got = jax.vmap(f, in_axes)(*mapped)
    chex.assert_trees_all_close(got, want, rtol=2e-5, atol=1e-4)
    gradient = jax.vmap(jax.grad(lambda *ab: f(*ab).sum(), argnums=(0, 1)), in_axes)
    chex.assert_tree_all_finite(gradient(*mapped))
    assert "while" not in str(jax.make_jaxpr(gradient)(*mapped)) and "scan" not in str(
        jax.make_jaxpr(gradient)(*mapped)
    )


@every_face
def test_nested_vmap_over_batches_and_kernels(face):
    f, (a, b) = face_of(face, CASES["strided, dilated, grouped, 2-D"], np.float32)
    many_a, many_b = jnp.stack([a, 2 * a]), jnp.stack([b, b + 1, b + 2])
    got = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(many_a, many_b)
    want = jnp.stack([jnp.stack([f(p, q) for q in many_b]) for p in many_a])
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-4)


def test_vmap_with_named_axis_and_per_example_kernel_gradients(x64):
    case = CASES["strided, dilated, grouped, 2-D"]
    x, w, y = map(jnp.asarray, case.arrays())

    def loss(w, x, y):
        return jnp.sum((jc.conv(x, w, **case.params) - y) ** 2)

    each = jax.vmap(jax.grad(loss), (None, 0, 0))(w, x, y)
    want = jnp.stack([jax.grad(loss)(w, x[i], y[i]) for i in range(len(x))])
    chex.assert_trees_all_close(each, want, rtol=1e-12)
    named = jax.vmap(lambda xi: jax.lax.psum(jc.conv(xi, w, **case.params), "b"), axis_name="b")(x)
    chex.assert_trees_all_close(named[0], jc.conv(x, w, **case.params).sum(0), rtol=1e-12)


@every_case
def test_scan_and_remat_and_cond_and_while(case):
    x, w, y = (jnp.asarray(a) for a in case.arrays(np.float32))

    def step(carry, scale):
        out = jax.checkpoint(
            lambda c: jc.conv_transpose(jc.conv(c, w, **case.params), w, **case.params, output_size=case.n)
        )(carry)
        return carry + scale * out / 100, out.sum()

    def scanned(x):
        return jax.lax.scan(step, x, jnp.arange(3.0))[0].sum()

    def unrolled(x):
        for i in range(3):
            x, _ = step(x, jnp.float32(i))
        return x.sum()

    chex.assert_trees_all_close(jax.grad(scanned)(x), jax.grad(unrolled)(x), rtol=1e-4)
    both = jax.lax.cond(x.sum() > 1e9, lambda x: x, lambda x: step(x, 1.0)[0], x)
    chex.assert_trees_all_close(both, step(x, 1.0)[0], rtol=1e-5)
    looped = jax.lax.fori_loop(0, 3, lambda i, c: step(c, jnp.float32(i))[0], x)
    chex.assert_trees_all_close(looped.sum(), unrolled(x), rtol=1e-4)


@every_case
def test_export_for_cpu_cuda_and_tpu_at_once_survives_serialisation(case):
    pytest.importorskip("flatbuffers")
    x, w, y = (jnp.asarray(a) for a in case.arrays(np.float32))

    def both_gradients(x, w, y):
        out, pull = jax.vjp(lambda x, w: jc.conv(x, w, **case.params), x, w)
        return out, pull(y), jc.conv_transpose(y, w, **case.params, output_size=case.n)

    exported = jax.export.export(jax.jit(both_gradients), platforms=("cpu", "cuda", "tpu"))(x, w, y)
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("cpu", "cuda", "tpu")
    chex.assert_trees_all_close(again.call(x, w, y), both_gradients(x, w, y), rtol=1e-4, atol=1e-4)


def test_donated_buffers_are_reused():
    x, w = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))
    step = jax.jit(lambda x, w: jc.conv(x, w, padding=1), donate_argnums=0)
    out = step(x, w)
    assert out.shape == (1, 8, 8, 2) and x.is_deleted()


def test_strict_promotion_raises_on_mixed_dtypes_and_works_on_equal_ones(strict_promotion):
    x, w = jnp.ones((1, 5, 2), jnp.bfloat16), jnp.ones((3, 2, 2), jnp.float32)
    with pytest.raises(Exception, match="promotion"):
        jc.conv(x, w)
    assert jc.conv(x.astype(jnp.float32), w).dtype == jnp.float32
    gradient = jax.grad(lambda x, w: jc.conv(x, w).sum(), argnums=(0, 1))(x, w.astype(jnp.bfloat16))
    assert all(g.dtype == jnp.bfloat16 for g in gradient)


@pytest.mark.parametrize(
    ("dtypes", "result"),
    [
        (("bfloat16", "float32"), "float32"),
        (("float16", "bfloat16"), "float32"),
        (("float32", "complex64"), "complex64"),
        (("int8", "float16"), "float16"),
    ],
)
def test_operands_promote_as_jax_numpy_does(dtypes, result):
    x, w = jnp.ones((1, 5, 2), dtypes[0]), jnp.ones((3, 2, 2), dtypes[1])
    assert jc.conv(x, w).dtype == result == (x[0, 0, 0] * w[0, 0, 0]).dtype
    if not jnp.issubdtype(x.dtype, jnp.integer):
        gradient = jax.vjp(jc.conv, x, w)[1](jc.conv(x, w))
        assert (gradient[0].dtype, gradient[1].dtype) == (x.dtype, w.dtype)


def test_preferred_element_type():
    x, w = jnp.full((1, 5, 64), 100, jnp.int8), jnp.full((3, 64, 2), 100, jnp.int8)
    assert int(jc.conv(x, w, preferred_element_type=jnp.int32)[0, 0, 0]) == 3 * 64 * 100 * 100
    xb, wb = jnp.ones((1, 5, 2), jnp.bfloat16), jnp.ones((3, 2, 2), jnp.bfloat16)
    out, pull = jax.vjp(lambda x, w: jc.conv(x, w, preferred_element_type=jnp.float32), xb, wb)
    assert out.dtype == jnp.float32
    assert [g.dtype for g in pull(out)] == [jnp.bfloat16, jnp.bfloat16]


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats_with_a_wider_result_have_gradients(dtype):
    """They promote with nothing, and every cotangent here is wider than the operands."""
    rng = np.random.default_rng(0)
    x, w, ct = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((1, 6, 3), (3, 3, 2), (1, 4, 2)))
    for op, operands in ((jc.conv, (x, w)), (jc.conv_transpose, (ct, w))):
        f = functools.partial(op, preferred_element_type=jnp.float32)
        y, pull = jax.vjp(f, *operands)
        wide, pull_wide = jax.vjp(op, *(a.astype(jnp.float32) for a in operands))
        np.testing.assert_allclose(y, wide, rtol=1e-6)
        for got, want in zip(pull(y), pull_wide(y), strict=True):
            assert got.dtype == dtype
            np.testing.assert_array_equal(got.astype(jnp.float32), want.astype(dtype).astype(jnp.float32))


def test_linear_transpose_is_the_transposed_convolution(x64):
    case = CASES["strided, dilated, grouped, 2-D"]
    x, w, y = map(jnp.asarray, case.arrays())
    (got,) = jax.linear_transpose(lambda x: jc.conv(x, w, **case.params), x)(y)
    chex.assert_trees_all_close(got, jc.conv_transpose(y, w, **case.params, output_size=case.n), rtol=1e-12)


def test_gradients_of_gradients_stay_within_the_three_primitives(x64):
    case = CASES["strided, dilated, grouped, 2-D"]
    x, w, _ = map(jnp.asarray, case.arrays())

    def loss(x, w):
        return jnp.sum(jc.conv(x, w, **case.params) ** 3)

    third = jax.grad(
        lambda x, w: jnp.sum(jax.grad(lambda x, w: jnp.sum(jax.grad(loss, 1)(x, w) ** 2))(x, w) ** 2), argnums=(0, 1)
    )
    text = str(jax.make_jaxpr(third)(x, w))
    assert "conv_apply" in text and "conv_adjoint" in text and "conv_kernel" in text
    assert "conv_general_dilated" not in text


def test_default_matmul_precision_is_read_where_the_operation_is_called():
    x, w = jnp.ones((1, 5, 2)), jnp.ones((3, 2, 2))
    with jax.default_matmul_precision("highest"):
        text = str(jax.make_jaxpr(jc.conv)(x, w))
    assert "precision=highest" in text
    lowered = jax.jit(functools.partial(jc.conv, precision="highest", method="lax")).lower(x, w).as_text()
    assert "HIGHEST" in lowered
