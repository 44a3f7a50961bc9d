"""Every way to compute a face against the definition, over random geometries."""

import jax
import numpy as np
import pytest
import reference
from cases import Case, cases, random_case
from hypothesis import given, settings
from ways import WAYS

import jaxconv as jc

# A geometry compiles three programs or more, so the default run takes 100 of them and the slow run 500 more.
DEFAULT_SEEDS = range(50)
SLOW_SEEDS = range(1000, 1090)
FEW = (*range(100, 112), 1228)  # the last: `fold` serves it padded only
TOLERANCE = 1e-10


def error(got, want):
    """Relative to the largest entry of the definition's result."""
    assert got.shape == want.shape, (got.shape, want.shape)
    return float(np.max(np.abs(np.asarray(got) - want), initial=0) / max(np.max(np.abs(want), initial=0), 1e-3))


def check_against_definition(way, case):
    x, w, y = case.arrays()
    record, groups = case.record, case.groups
    if way.serves(case, "apply"):
        assert error(way.apply(x, w, case), reference.conv(x, w, record, groups)) <= TOLERANCE, f"apply, {case}"
    if way.serves(case, "adjoint"):
        want = reference.conv_transpose(y, w, record, groups)
        assert error(way.adjoint(y, w, case), want) <= TOLERANCE, f"adjoint, {case}"
    if way.serves(case, "kernel"):
        assert error(way.kernel(x, y, case), reference.conv_kernel(x, y, record, groups)) <= TOLERANCE, (
            f"kernel, {case}"
        )


def check_dot_tests(way, case):
    """<conv(x, w), y> = <x, conv_transpose(y, w)> = <w, conv_kernel(x, y)>, without the definition."""
    x, w, y = case.arrays()
    forward = np.vdot(way.apply(x, w, case), y)
    scale = np.linalg.norm(x) * np.linalg.norm(w) * np.linalg.norm(y) + 1e-300
    assert abs(forward - np.vdot(x, way.adjoint(y, w, case))) / scale <= 1e-13, f"adjoint, {case}"
    assert abs(forward - np.vdot(w, way.kernel(x, y, case))) / scale <= 1e-13, f"kernel, {case}"


@pytest.mark.parametrize("seed", DEFAULT_SEEDS)
def test_auto_agrees_with_the_definition(seed, x64):
    case = random_case(seed)
    check_against_definition(WAYS[0], case)
    check_dot_tests(WAYS[0], case)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("way", WAYS[1:], ids=lambda w: w.name)
def test_every_way_agrees_with_the_definition(way, seed, x64):
    check_against_definition(way, random_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_many_geometries_and_every_legal_output_size(seed, x64):
    """Each geometry by the choice and by one other way in turn, and every legal output size of its transpose."""
    case = random_case(seed)
    check_dot_tests(WAYS[0], case)
    for way in (WAYS[0], WAYS[1 + seed % (len(WAYS) - 1)]):
        check_against_definition(way, case)
    for sized in case.sizes_with_the_same_output():
        _, w, y = sized.arrays()
        got = WAYS[0].adjoint(y, w, sized)
        assert error(got, reference.conv_transpose(y, w, sized.record, sized.groups)) <= TOLERANCE, str(sized)


@settings(max_examples=15)
@given(case=cases())
def test_hypothesis_finds_no_failing_geometry(case):
    with jax.enable_x64(True):
        check_against_definition(WAYS[0], case)


@pytest.mark.parametrize("seed", [3, 11, 24])
@pytest.mark.parametrize("face", ["apply", "adjoint", "kernel"])
def test_the_derivatives_of_a_face_are_the_other_two(face, seed, x64):
    case = random_case(seed)
    x, w, y = case.arrays()
    operands = {"apply": (x, w), "adjoint": (y, w), "kernel": (x, y)}[face]
    rest = {"apply": y, "adjoint": x, "kernel": w}[face]
    out, pull = jax.vjp(lambda a, b: getattr(WAYS[0], face)(a, b, case), *operands)
    assert out.shape == rest.shape
    first, second = pull(jax.numpy.asarray(rest))
    record, groups = case.record, case.groups
    want = {
        "apply": (reference.conv_transpose(y, w, record, groups), reference.conv_kernel(x, y, record, groups)),
        "adjoint": (reference.conv(x, w, record, groups), reference.conv_kernel(x, y, record, groups)),
        "kernel": (reference.conv_transpose(y, w, record, groups), reference.conv(x, w, record, groups)),
    }[face]
    assert error(first, want[0]) <= TOLERANCE and error(second, want[1]) <= TOLERANCE, str(case)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_faces_transpose_without_conjugating(dtype, x64):
    case = random_case(5, modes=("zeros",))
    x, w, y = case.arrays(dtype)
    way, record, groups = WAYS[0], case.record, case.groups
    tolerance = 1e-5 if dtype == np.complex64 else TOLERANCE
    for got, want in [
        (way.apply(x, w, case), reference.conv(x, w, record, groups)),
        (way.adjoint(y, w, case), reference.conv_transpose(y, w, record, groups)),
        (way.kernel(x, y, case), reference.conv_kernel(x, y, record, groups)),
    ]:
        assert got.dtype == dtype
        assert error(got, want) <= tolerance, str(case)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.name)
def test_half_precision_accumulates_in_float32(way, dtype):
    """Against the definition on the rounded operands: one rounding of the result, not one of every partial sum."""
    case = Case((12, 12), (3, 3), (1, 1), (1, 1), "SAME", channels=(96, 4), batch=2)
    x, w, y = (jax.numpy.asarray(a, dtype) for a in case.arrays(np.float32))
    eps = float(jax.numpy.finfo(dtype).eps)
    for face, operands, definition in [
        ("apply", (x, w), reference.conv),
        ("adjoint", (y, w), reference.conv_transpose),
        ("kernel", (x, y), reference.conv_kernel),
    ]:
        if not way.serves(case, face):
            continue
        got = getattr(way, face)(*operands, case)
        assert got.dtype == dtype
        wide = [np.asarray(a, np.float64) for a in operands]
        want = definition(*wide, case.record)
        # Rounding once costs eps/2 of an entry; summing 864 terms in half precision costs ten times that.
        assert np.max(np.abs(np.asarray(got, np.float64) - want)) <= eps * np.max(np.abs(want)), face


def test_batch_axes_of_any_number(x64):
    case = Case((5, 4), (3, 2), (2, 1), (1, 2), "SAME", groups=2, batch=6)
    x, w, y = case.arrays()
    for shape in [(6,), (2, 3), (1, 2, 3)]:
        xs, ys = x.reshape(*shape, *x.shape[1:]), y.reshape(*shape, *y.shape[1:])
        np.testing.assert_array_equal(jc.conv(xs, w, **case.params).reshape(y.shape), jc.conv(x, w, **case.params))
        np.testing.assert_allclose(
            jc.conv_transpose(ys, w, **case.params, output_size=case.n).reshape(x.shape),
            jc.conv_transpose(y, w, **case.params, output_size=case.n), rtol=1e-12,
        )  # fmt: skip
        np.testing.assert_allclose(
            jc.conv_kernel(xs, ys, case.k, **case.params), jc.conv_kernel(x, y, case.k, **case.params), rtol=1e-12
        )
    np.testing.assert_allclose(jc.conv(x[0], w, **case.params), jc.conv(x, w, **case.params)[0], rtol=1e-12)
    assert jc.conv(np.zeros((0, 5, 4, 4)), w, **case.params).shape == (0, *case.record["m"], 6)
