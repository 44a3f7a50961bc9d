"""The convolution as an operator: products, algebra, transformations, and what other libraries make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_matrix import REGISTRY

import jaxconv as jc
from jaxconv.linear import Identity


def random_operator(rng, kernel=(3, 3, 2, 3), size=(6, 5), dtype=np.float64, **params):
    w = rng.standard_normal(kernel)
    if np.issubdtype(dtype, np.complexfloating):
        w = w + 1j * rng.standard_normal(kernel)
    return jc.ConvOperator(w.astype(dtype), size, **params)


def check_products(case):
    x, w, y = case.arrays()
    operator = jc.ConvOperator(w, case.n, **case.params)
    matrix = operator.as_matrix()
    assert operator.shape == matrix.shape and operator.in_shape == x.shape[1:] and operator.out_shape == y.shape[1:]
    np.testing.assert_allclose((operator @ x).reshape(len(x), -1), x.reshape(len(x), -1) @ matrix.T, atol=1e-12)
    np.testing.assert_allclose((operator.T @ y).reshape(len(y), -1), y.reshape(len(y), -1) @ matrix, atol=1e-12)
    assert operator.dot_test(jax.random.key(3)) < 1e-13
    assert operator.T.T is operator


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(i), marks=() if i == 5 else pytest.mark.slow) for i, c in enumerate(REGISTRY)]
)
def test_products_are_the_matrix(case, x64):
    check_products(case)


def test_dot_test_finds_a_wrong_transpose():
    class Flipped(jc.ConvOperator):
        def transpose_mv(self, y):
            return super().transpose_mv(y)[::-1]

    operator = Flipped(np.array([1.0, 2.0, 4.0], np.float32)[:, None, None], 9, padding=1)
    assert operator.dot_test(jax.random.key(0)) > 1e-2


def test_algebra_is_the_algebra_of_the_matrices(x64, rng):
    a = random_operator(rng, padding=1, groups=1)
    b = random_operator(rng, padding=((0, 2), (2, 0)))
    down = random_operator(rng, kernel=(2, 2, 3, 1), size=a.geometry.output_size, stride=2, padding=1)
    m, n, d = (op.as_matrix() for op in (a, b, down))
    x, y = rng.standard_normal(a.in_shape), rng.standard_normal(down.out_shape)
    combinations = [
        (
            down @ (2 * a - b / 4) @ (Identity(a.in_shape, np.dtype("float64")) - a.T @ b),
            d @ (2 * m - n / 4) @ (np.eye(m.shape[1]) - m.T @ n),
        ),
    ]
    for operator, want in combinations:
        assert operator.in_structure() == jax.ShapeDtypeStruct(a.in_shape, np.float64)
        assert operator.out_structure() == jax.ShapeDtypeStruct(down.out_shape, np.float64)
        np.testing.assert_allclose(operator.mv(x).ravel(), want @ x.ravel(), atol=1e-11)
        np.testing.assert_allclose(operator.T.mv(y).ravel(), want.T @ y.ravel(), atol=1e-11)
        np.testing.assert_allclose(operator.as_matrix(), want, atol=1e-11)
        np.testing.assert_allclose(operator.as_matrix("bcoo").todense(), want, atol=1e-11)
    for format in ("scipy", "bcoo", "bcsr"):
        np.testing.assert_allclose(a.T.as_matrix(format).todense(), m.T, atol=0)


def test_complex_transpose_does_not_conjugate_and_h_does(x64, rng):
    a = random_operator(rng, dtype=np.complex128, padding=1)
    m = np.asarray(a.as_matrix())
    y = rng.standard_normal(a.out_shape) + 1j * rng.standard_normal(a.out_shape)
    np.testing.assert_allclose(a.T.mv(y).ravel(), m.T @ y.ravel(), atol=1e-12)
    np.testing.assert_allclose(a.H.mv(y).ravel(), m.conj().T @ y.ravel(), atol=1e-12)
    np.testing.assert_allclose(a.H.as_matrix(), m.conj().T, atol=1e-12)
    np.testing.assert_allclose(a.norm(), np.linalg.norm(m, 2), rtol=1e-6)


def test_operators_are_pytrees(rng):
    a = random_operator(rng, dtype=np.float32, padding=1)
    x = rng.standard_normal(a.in_shape).astype(np.float32)
    (leaf,) = jax.tree.leaves(a.T @ a)[:1]
    assert leaf is a.w
    assert jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(a)[0][0]) == ".w"
    product = jax.jit(lambda operator, x: (operator.T @ operator).mv(x))
    np.testing.assert_allclose(product(a, x), a.T @ (a @ x), rtol=1e-4, atol=1e-4)
    gradient = jax.grad(lambda operator: jnp.sum(operator.mv(x) ** 2))(a)
    want = jax.grad(lambda w: jnp.sum(jc.conv(x, w, padding=1) ** 2))(a.w)
    np.testing.assert_allclose(gradient.w, want, rtol=1e-5, atol=1e-5)
    stack = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), a)
    many = jax.vmap(lambda operator: operator.mv(x))(stack)
    np.testing.assert_allclose(many[1], 2 * many[0], rtol=1e-5)


def test_lineax_and_scipy_take_it(rng):
    lineax = pytest.importorskip("lineax")
    a = random_operator(rng, dtype=np.float32, padding=1, kernel=(3, 3, 2, 2))
    x = rng.standard_normal(a.in_shape).astype(np.float32)
    taken = a.as_lineax()
    np.testing.assert_allclose(taken.mv(x), a @ x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(taken.T.mv(a @ x), a.T @ (a @ x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(taken.as_matrix(), a.as_matrix(), rtol=1e-5, atol=1e-5)
    assert isinstance(taken, lineax.AbstractLinearOperator)
    damped = (a.T @ a) + Identity(a.in_shape)
    solved, _ = jax.scipy.sparse.linalg.cg(damped.mv, a.T @ (a @ x) + x, tol=1e-6)
    np.testing.assert_allclose(solved, x, atol=1e-3)
    np.testing.assert_allclose(a.as_scipy() @ x.ravel(), (a @ x).ravel(), rtol=1e-5, atol=1e-5)


def test_refusals_name_the_values(rng):
    a = random_operator(rng, dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"x has shape \(60,\); this operator takes \(\*batch, 6, 5, 2\) \(reshape flat"
    ):
        a @ np.ones(60, np.float32)
    with pytest.raises(ValueError, match=r"A @ B: A has in_shape \(6, 5, 2\), B has out_shape \(4, 3, 3\)"):
        a @ a
    with pytest.raises(ValueError, match=r"A \+ B: A has in_shape"):
        a + a.T
    with pytest.raises(TypeError, match="multiplied by a number"):
        a * np.ones(3)
    with pytest.raises(ValueError, match="groups=2 does not divide"):
        jc.ConvOperator(np.ones((3, 1, 3)), 5, groups=2)
    with pytest.raises(TypeError, match="w must be an array"):
        jc.ConvOperator("kernel", 5)
    with pytest.raises(ValueError, match=r"keep its shape \(3, 3, 2, 3\)"):
        a.with_kernel(np.ones((3, 3)))
    with pytest.raises(ValueError, match="format='coo' is not one of"):
        a.T.as_matrix("coo")
    assert "stride (1, 1)" in repr(a)
