"""Norms, singular values and solves of convolution operators against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_case
from jax import lax

import jaxconv as jc
from jaxconv.linear.algebra import Identity
from jaxconv.linear.circulant import is_block_circulant
from jaxconv.linear.spectrum import reshaped_kernel_norm


def dense_norm(operator):
    return np.linalg.norm(np.asarray(operator.as_matrix(), np.float64), 2)


def operator_of(case, dtype=np.float32):
    return jc.ConvOperator(case.arrays(dtype)[1], case.n, **case.params)


@pytest.mark.slow
def test_norm_of_a_larger_operator_under_jit_and_its_derivative(x64, rng):
    w = rng.standard_normal((3, 3, 3, 4))
    operator = jc.ConvOperator(w, (14, 14), padding=1)
    norm = jax.jit(lambda operator: operator.norm(tol=1e-8))
    np.testing.assert_allclose(norm(operator), dense_norm(operator), rtol=1e-10)
    np.testing.assert_allclose(norm(jc.ConvOperator(3 * w, (14, 14), padding=1)), 3 * dense_norm(operator), rtol=1e-10)
    direction = rng.standard_normal(w.shape)
    slope = jnp.vdot(jax.grad(norm)(operator).w, direction)
    step = 1e-5
    ahead, behind = (dense_norm(operator.with_kernel(w + sign * step * direction)) for sign in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


@pytest.mark.slow
def test_norm_over_many_random_cases():
    for seed in range(10):
        operator = operator_of(random_case(seed + 3000))
        np.testing.assert_allclose(
            operator.norm(), dense_norm(operator), rtol=1e-4, atol=1e-30, err_msg=f"case seed {seed + 3000}"
        )


CIRCULAR = [
    ((8,), (3, 2, 3), {"stride": 2, "padding": 1}),
    ((6,), (5, 2, 1), {"stride": 1, "padding": ((0, 4),), "dilation": 1}),
    ((6, 4), (3, 2, 2, 3), {"stride": (3, 2), "padding": ((0, 0), (2, 0)), "dilation": (1, 2)}),
    ((4, 6), (3, 3, 1, 4), {"stride": (1, 2), "padding": 1, "groups": 2}),
]


@pytest.mark.parametrize("size, kernel, params", CIRCULAR)
def test_circular_singular_values_are_those_of_the_matrix(size, kernel, params, x64, rng):
    operator = jc.ConvOperator(rng.standard_normal(kernel), size, padding_mode="circular", **params)
    assert is_block_circulant(operator.geometry), operator
    got = operator.singular_values()
    want = np.linalg.svd(np.asarray(operator.as_matrix()), compute_uv=False)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-12 * want[0], err_msg=repr(operator))
    np.testing.assert_allclose(operator.T.singular_values(2), want[:2], rtol=1e-12)
    np.testing.assert_allclose(operator.singular_values(method="dense"), want, atol=1e-12 * want[0])


def test_what_is_not_block_circulant_is_not_taken_for_it(rng):
    w = rng.standard_normal((3, 1, 1)).astype(np.float32)
    circular = {"padding_mode": "circular"}
    assert not is_block_circulant(jc.ConvOperator(w, 8, padding=1).geometry)
    assert not is_block_circulant(jc.ConvOperator(w, 8, **circular).geometry)
    assert not is_block_circulant(jc.ConvOperator(w, 7, stride=2, padding=1, **circular).geometry)
    # A pointwise kernel touches no border: zero padding is as good as circular.
    assert is_block_circulant(jc.ConvOperator(w[:1], 8).geometry)
    with pytest.raises(ValueError, match="method='fft' needs one convolution with circular padding"):
        jc.ConvOperator(w, 8, padding=1).singular_values(method="fft")


def test_largest_singular_values_by_lanczos(rng):
    operator = jc.ConvOperator(rng.standard_normal((3, 3, 2, 3)).astype(np.float32), (8, 8), padding=1)
    want = np.linalg.svd(np.asarray(operator.as_matrix()), compute_uv=False)
    np.testing.assert_allclose(operator.singular_values(4, method="lanczos"), want[:4], rtol=1e-4)
    with pytest.raises(ValueError, match="lanczos.* k < 128 .* got k=None"):
        operator.singular_values(method="lanczos")
    with pytest.raises(ValueError, match=r"k=129 must be in 1\.\.128"):
        operator.singular_values(129)
    with pytest.raises(TypeError, match="norm needs an operator of floating"):
        jc.ConvOperator(np.ones((3, 1, 1), np.int32), 8).norm()


def test_the_reshaped_norm_is_a_lower_bound_at_stride_one(rng):
    w = rng.standard_normal((3, 3, 4, 4)).astype(np.float32)
    operator = jc.ConvOperator(w, (10, 10), padding=1)
    low = reshaped_kernel_norm(w)
    assert low < operator.norm() < 3 * low


# ---------------------------------------------------------------------- solves


@pytest.fixture
def problem(x64, rng):
    operator = jc.ConvOperator(rng.standard_normal((3, 3, 2, 3)), (6, 6), stride=2, padding=1, padding_mode="circular")
    return operator, np.asarray(operator.as_matrix()), rng.standard_normal(operator.out_shape)


@pytest.mark.parametrize("method", ["fft", "lsmr"])
def test_least_norm_solution_is_the_pseudo_inverse(problem, method):
    pytest.importorskip("lineax")
    operator, matrix, y = problem
    solution = operator.lstsq(y, method=method, rtol=1e-12)
    np.testing.assert_allclose(solution.x.ravel(), np.linalg.pinv(matrix) @ y.ravel(), atol=1e-8)
    residual = np.linalg.norm(matrix @ np.ravel(solution.x) - y.ravel()) / np.linalg.norm(y)
    np.testing.assert_allclose(solution.residual, residual, atol=1e-12)


@pytest.mark.parametrize("method", ["fft", "lsmr", "cg"])
def test_tikhonov_solution_solves_the_damped_normal_equations(problem, method):
    pytest.importorskip("lineax")
    operator, matrix, y = problem
    want = np.linalg.solve(matrix.T @ matrix + 0.3**2 * np.eye(matrix.shape[1]), matrix.T @ y.ravel())
    np.testing.assert_allclose(operator.lstsq(y, damp=0.3, method=method, rtol=1e-12).x.ravel(), want, atol=1e-8)


def test_pseudo_inverse_as_an_operator(problem):
    pytest.importorskip("lineax")
    operator, matrix, y = problem
    inverse = operator.pinv(method="lsmr", rtol=1e-12)
    want = np.linalg.pinv(matrix)
    np.testing.assert_allclose(inverse.as_matrix(), want, atol=1e-8)
    np.testing.assert_allclose(inverse.T.as_matrix(), want.T, atol=1e-8)
    np.testing.assert_allclose((inverse @ operator).as_matrix(), want @ matrix, atol=1e-8)
    # C^T is not the inverse: where the pseudo-inverse gives the projection, C^T C gives something else.
    assert np.abs(matrix.T @ matrix - want @ matrix).max() > 1
    np.testing.assert_allclose(operator.pinv().mv(y).ravel(), want @ y.ravel(), atol=1e-10)


def test_a_zero_singular_value_is_left_out_not_divided_by(x64):
    # [1, 1] has no response at the highest frequency of an even circle.
    operator = jc.ConvOperator(np.ones((2, 1, 1)), 6, padding=((0, 1),), padding_mode="circular")
    y = np.arange(6.0)[:, None]
    want = np.linalg.pinv(np.asarray(operator.as_matrix())) @ y.ravel()
    np.testing.assert_allclose(operator.lstsq(y).x.ravel(), want, atol=1e-10)


@pytest.mark.parametrize("method, damp", [("cg", 0.3), ("fft", 0.3), ("fft", 0.0)])
def test_solutions_are_differentiable(problem, method, damp):
    pytest.importorskip("lineax")
    operator, matrix, y = problem
    direction = np.random.default_rng(5).standard_normal(operator.w.shape)

    def energy(w):
        return jnp.sum(operator.with_kernel(w).lstsq(y, damp=damp, method=method, rtol=1e-12).x ** 2)

    slope, step = jnp.vdot(jax.grad(energy)(operator.w), direction), 1e-5
    central = (energy(operator.w + step * direction) - energy(operator.w - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, central, rtol=1e-5)


def test_solve_refusals(problem):
    operator, _, y = problem
    with pytest.raises(ValueError, match=r"y has shape \(1, 3, 3, 3\).*use vmap"):
        operator.lstsq(y[None])
    with pytest.raises(ValueError, match="method='qr' is not one of 'auto', 'fft', 'lsmr', 'cg'"):
        operator.lstsq(y, method="qr")
    with pytest.raises(ValueError, match="method='fft' needs a convolution with circular borders"):
        operator.T.lstsq(np.ones(operator.in_shape), method="fft")


def _three_taps(dtype=None):
    return jnp.asarray([0.3, -1.0, 0.6], dtype)[:, None, None]


@pytest.mark.parametrize(
    "settings, derivative",
    [({"padding": 1, "stride": 2}, jax.hessian), ({"padding_mode": "circular"}, lambda f: jax.jacrev(jax.grad(f)))],
)
def test_second_derivatives_of_the_norm(settings, derivative):
    def operator(w):
        return jc.ConvOperator(w, 5, **settings)

    w = _three_taps()
    want = jax.jit(jax.hessian(lambda w: jnp.linalg.norm(operator(w).as_matrix(), 2)))(w)
    assert jnp.abs(want).max() > 0.1
    np.testing.assert_allclose(jax.jit(derivative(lambda w: operator(w).norm()))(w), want, atol=1e-3)


@pytest.mark.slow
def test_second_derivative_of_a_complex_norm(x64):
    def operator(parts):
        return jc.ConvOperator(lax.complex(*parts).reshape(2, 1, 1), 3)

    parts = jnp.asarray([[0.3, -1.0], [0.2, 0.7]])
    got = jax.jit(jax.hessian(lambda parts: operator(parts).norm(tol=1e-10)))(parts)
    want = jax.jit(jax.hessian(lambda parts: jnp.linalg.norm(operator(parts).as_matrix(), 2)))(parts)
    np.testing.assert_allclose(got, want, atol=1e-7)


def test_equal_singular_values_give_no_wrong_second_derivative(x64):
    """Norm 1 + |a| around a = 0."""

    def norm(a):
        return jc.ConvOperator(jnp.asarray([[1.0, a], [a, 1.0]])[None], 1).norm()

    assert not jnp.isfinite(jax.jit(jax.grad(jax.grad(norm)))(0.0))


@pytest.mark.parametrize("damp", [0.0, 0.3])
def test_second_derivatives_of_circular_least_squares(damp):
    w, y = _three_taps(), jnp.sin(jnp.arange(6.0))[:, None]

    def operator(w):
        return jc.ConvOperator(w, 6, padding=1, padding_mode="circular")

    def dense(w):
        a = operator(w).as_matrix()
        return (jnp.linalg.solve(a.T @ a + damp**2 * jnp.eye(6), a.T @ y) ** 3).sum()

    want = jax.jit(jax.hessian(dense))(w)
    got = jax.jit(jax.hessian(lambda w: (operator(w).lstsq(y, damp=damp).x ** 3).sum()))(w)
    np.testing.assert_allclose(got, want, atol=1e-3 * float(jnp.abs(want).max()))


# ---------------------------------------------------------------------- precision and promotion


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_operators_of_half_precision(dtype, mode):
    half, full = (jc.ConvOperator(_three_taps(dtype).astype(t), 6, padding=1, padding_mode=mode) for t in (dtype, "f4"))
    for get in (lambda a: a.norm(), lambda a: a.T.singular_values()[0], lambda a: a.singular_values(method="dense")[0]):
        assert get(half).dtype == dtype
        np.testing.assert_allclose(get(half).astype(float), get(full), rtol=1e-2)
    y = jnp.ones((6, 1), dtype)
    x = half.lstsq(y, damp=0.5).x
    assert x.dtype == dtype
    np.testing.assert_allclose(x.astype(float), full.lstsq(y.astype("f4"), damp=0.5).x, atol=1e-2)
    assert jax.grad(lambda a: a.norm())(half).w.dtype == dtype


@pytest.mark.slow
def test_what_is_made_of_operators_of_half_precision():
    half = jc.ConvOperator(_three_taps("bfloat16"), 6, padding=1)
    identity = Identity((6, 1), jnp.dtype("bfloat16"))
    assert float(identity.norm()) == 1
    for made in (half + 2 * identity, half.T @ half):
        want = np.linalg.norm(np.asarray(made.as_matrix(), np.float32), 2)
        assert made.norm().dtype == jnp.bfloat16
        np.testing.assert_allclose(float(made.norm()), want, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_circular_operators_under_strict_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        a = jc.ConvOperator(_three_taps(dtype), 6, padding=1, padding_mode="circular")
        assert a.lstsq(jnp.ones((6, 1), dtype), damp=0.1).x.dtype == dtype
        assert jax.grad(lambda a: a.norm())(a).w.dtype == dtype
        assert a.singular_values().dtype == dtype
