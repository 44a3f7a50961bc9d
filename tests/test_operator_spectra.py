"""Norms, singular values and solves of convolution operators against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_case

import jaxconv as jc
from jaxconv.linear.circulant import is_block_circulant
from jaxconv.linear.spectrum import reshaped_kernel_norm


def dense_norm(operator):
    return np.linalg.norm(np.asarray(operator.as_matrix(), np.float64), 2)


def operator_of(case, dtype=np.float32):
    return jc.ConvOperator(case.arrays(dtype)[1], case.n, **case.params)


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
    for seed in range(60):
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
