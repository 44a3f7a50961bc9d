"""The matrix of a convolution against the definition, the operations, and scipy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.sparse
from cases import MODES, Case, random_case

import jaxconv as jc
from jaxconv.geometry import ConvGeometry
from jaxconv.linear.matrix import equivalent_kernels, matrix_of, matrix_size

FORMATS = ("bcoo", "bcsr", "dense", "scipy")

# One geometry per property that the index arithmetic has to get right.
REGISTRY = [
    Case(n=(7,), k=(3,), stride=(2,), dilation=(1,), padding="SAME"),
    Case(n=(6,), k=(2,), stride=(1,), dilation=(3,), padding="CAUSAL", groups=2),
    Case(n=(4,), k=(3,), stride=(1,), dilation=(1,), padding=((7, 6),), mode="circular"),
    Case(n=(4,), k=(3,), stride=(2,), dilation=(2,), padding=((5, 4),), mode="reflect"),
    Case(n=(3,), k=(4,), stride=(1,), dilation=(1,), padding=((4, 1),), mode="replicate"),
    Case(n=(6, 5), k=(3, 2), stride=(2, 1), dilation=(1, 2), padding=((1, 2), (-1, 3)), groups=3),
    Case(n=(5, 6), k=(3, 3), stride=(2, 3), dilation=(2, 1), padding=((2, 2), (1, 1)), mode="circular", groups=2),
    Case(n=(5, 4), k=(3, 2), stride=(1, 2), dilation=(1, 1), padding="SAME_LOWER", mode="reflect"),
    Case(n=(4, 5), k=(2, 3), stride=(3, 1), dilation=(1, 1), padding=((0, 0), (2, -1)), mode="replicate"),
    Case(n=(4, 3, 3), k=(2, 2, 3), stride=(1, 2, 1), dilation=(2, 1, 1), padding=((1, 1), (0, 1), (1, 1)), groups=2),
]


def check_against_definition(case):
    """C x and C^T y of float64 arrays equal the loops."""
    x, w, y = case.arrays()
    with jax.enable_x64(True):
        matrix = jc.conv_matrix(w, case.n, **case.params, format="scipy")
    rows, columns = np.prod(y.shape[1:]), np.prod(x.shape[1:])
    assert matrix.shape == (rows, columns), case
    for b in range(case.batch):
        want = reference.conv(x[b : b + 1], w, case.record, case.groups).ravel()
        np.testing.assert_allclose(matrix @ x[b].ravel(), want, rtol=1e-12, atol=1e-12, err_msg=str(case))
        want = reference.conv_transpose(y[b : b + 1], w, case.record, case.groups).ravel()
        np.testing.assert_allclose(matrix.T @ y[b].ravel(), want, rtol=1e-12, atol=1e-12, err_msg=str(case))


def check_against_ops(case):
    """Every format gives conv and conv_transpose; gradients through the matrix are gradients through the operation."""
    arrays = case.arrays()
    with jax.enable_x64(True):
        x, w, y = map(jnp.asarray, arrays)
        want = np.asarray(jc.conv(x, w, **case.params)).reshape(case.batch, -1).T
        back = np.asarray(jc.conv_transpose(y, w, **case.params, output_size=case.n)).reshape(case.batch, -1).T
        columns = x.reshape(case.batch, -1).T
        for format in FORMATS:
            matrix = jc.conv_matrix(w, case.n, **case.params, format=format)
            dense = np.asarray(matrix.todense() if format != "dense" else matrix)
            assert dense.dtype == np.float64
            product = np.asarray(matrix @ (np.asarray(columns) if format == "scipy" else columns))
            np.testing.assert_allclose(product, want, rtol=1e-12, atol=1e-12, err_msg=f"{format}: {case}")
            np.testing.assert_allclose(
                dense.T @ np.asarray(y).reshape(case.batch, -1).T,
                back,
                rtol=1e-12,
                atol=1e-12,
                err_msg=f"{format}: {case}",
            )

        def through_matrix(w, x):
            return jnp.sum(jnp.sin(jc.conv_matrix(w, case.n, **case.params) @ x.reshape(case.batch, -1).T))

        def through_op(w, x):
            return jnp.sum(jnp.sin(jc.conv(x, w, **case.params)))

        for got, expected in zip(
            jax.grad(through_matrix, (0, 1))(w, x), jax.grad(through_op, (0, 1))(w, x), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=str(case))


@pytest.mark.parametrize("case", REGISTRY, ids=range(len(REGISTRY)))
def test_registry_equals_the_definition(case):
    check_against_definition(case)


@pytest.mark.parametrize("seed", range(30))
def test_random_cases_equal_the_definition(seed):
    check_against_definition(random_case(seed))


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(i), marks=() if i % 3 == 1 else pytest.mark.slow) for i, c in enumerate(REGISTRY)]
)
def test_formats_and_gradients_equal_the_operation(case):
    check_against_ops(case)


@pytest.mark.slow
@pytest.mark.parametrize("mode", sorted(set(MODES)))
def test_many_random_cases(mode):
    for seed in range(1000, 1050):
        check_against_definition(random_case(seed, modes=(mode,)))
    for seed in range(2000, 2006):
        check_against_ops(random_case(seed, modes=(mode,)))


def test_base_dilation_is_the_matrix_of_lax(x64, rng):
    # Only geometries have a base dilation; lax is the witness.
    g = ConvGeometry.resolve(
        input_size=(4,), kernel_size=(3,), stride=2, padding=((2, 1),), dilation=2, base_dilation=3
    )
    x, w = rng.standard_normal((1, 4, 2)), rng.standard_normal((3, 2, 3))
    want = jax.lax.conv_general_dilated(
        x, w, (2,), ((2, 1),), lhs_dilation=(3,), rhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
    )
    got = matrix_of(jnp.asarray(w), g, format="dense") @ x.ravel()
    np.testing.assert_allclose(got, want.ravel(), rtol=1e-12)


def test_under_jit_vmap_and_without():
    case = REGISTRY[5]
    x, w, _ = case.arrays(np.float32)
    eager = jc.conv_matrix(w, case.n, **case.params)
    jitted = jax.jit(lambda w: jc.conv_matrix(w, case.n, **case.params))(w)
    chex.assert_trees_all_equal(eager.data, jitted.data)
    chex.assert_trees_all_equal(eager.indices, jitted.indices)
    kernels = np.stack([w, 2 * w, -w])
    many = jax.vmap(lambda w: jc.conv_matrix(w, case.n, **case.params) @ x[0].ravel())(kernels)
    one = eager @ x[0].ravel()
    np.testing.assert_allclose(many, np.stack([one, 2 * one, -one]), rtol=1e-5, atol=1e-5)


def test_sparsity_claims_of_bcoo_hold():
    for case in REGISTRY:
        matrix = jc.conv_matrix(case.arrays()[1], case.n, **case.params)
        keys = np.asarray(matrix.indices[:, 0]).astype(np.int64) * matrix.shape[1] + np.asarray(matrix.indices[:, 1])
        if matrix.indices_sorted:
            assert (np.diff(keys) >= 0).all(), case
        if matrix.unique_indices:
            assert len(np.unique(keys)) == len(keys), case


def test_size_estimate_is_what_is_built():
    for case in REGISTRY:
        _, w, _ = case.arrays(np.float32)
        g = ConvGeometry.resolve(input_size=case.n, kernel_size=case.k, **case.params)
        size = matrix_size(g, w.shape[-2] * case.groups, w.shape[-1])
        coo = jc.conv_matrix(w, case.n, **case.params)
        csr = jc.conv_matrix(w, case.n, **case.params, format="bcsr")
        assert coo.nse == csr.nse == size.entries
        assert coo.data.nbytes + coo.indices.nbytes == size.bytes["bcoo"]
        assert csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes == size.bytes["bcsr"]


def test_equivalent_kernels_are_the_kernel_moved_over_the_input():
    w = jnp.arange(1.0, 7.0).reshape(2, 3, 1, 1)
    kernels = equivalent_kernels(w, (4, 5), stride=(2, 2))
    assert kernels.shape == (2, 2, 1, 4, 5, 1)
    want = np.zeros((4, 5))
    want[2:4, 2:5] = w[..., 0, 0]
    np.testing.assert_array_equal(kernels[1, 1, 0, :, :, 0], want)
    np.testing.assert_array_equal(kernels.reshape(4, 20), jc.conv_matrix(w, (4, 5), stride=2, format="dense"))


def test_integers_and_complex_kernels_keep_their_dtype(x64):
    assert jc.conv_matrix(np.ones((2, 1, 1), np.int32), 4).dtype == np.int32
    w = np.array([1 + 2j, 3j])[:, None, None]
    assert scipy.sparse.issparse(jc.conv_matrix(w, 4, format="scipy"))
    np.testing.assert_array_equal(jc.conv_matrix(w, 2, format="dense"), [[1 + 2j, 3j]])


def test_refusals_name_entries_bytes_and_values():
    w = np.ones((3, 3, 64, 64), np.float32)
    with pytest.raises(
        ValueError, match=r"4194304 x 4194304 with \d+ entries, \d+ bytes .*max_bytes is 4294967296.*ConvOperator"
    ):
        jc.conv_matrix(w, (256, 256), padding=1)
    with pytest.raises(ValueError, match="dense matrix .* would be 262144 x 262144"):
        jc.conv_matrix(np.ones((3, 3, 1, 1)), (512, 512), padding=1, format="dense")
    with pytest.raises(ValueError, match="int32 positions"):
        jc.conv_matrix(np.ones((1, 1, 1)), 2**31 - 1 + 1, format="bcsr", max_bytes=2**60)
    with pytest.raises(ValueError, match="format='csc' is not one of 'bcoo', 'bcsr', 'dense', 'scipy'"):
        jc.conv_matrix(np.ones((3, 1, 1)), 5, format="csc")
    with pytest.raises(ValueError, match="3 output channels, which groups=2"):
        jc.conv_matrix(np.ones((3, 1, 3)), 5, groups=2)
    with pytest.raises(ValueError, match=r"w has shape \(3, 3\)"):
        jc.conv_matrix(np.ones((3, 3)), 5)
    with pytest.raises(TypeError, match="w must be an array, got list"):
        jc.conv_matrix([1.0], 5)
    with pytest.raises(TypeError, match="use 'bcoo' inside it"):
        jax.jit(lambda w: jc.conv_matrix(w, 5, format="scipy").sum())(np.ones((3, 1, 1)))
