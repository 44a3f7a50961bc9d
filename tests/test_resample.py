"""Resizing, shuffles and folding against their definitions written as float64 loops."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxconv as jc
from jaxconv.resampling import axis_maps, axis_reads, products, resample
from jaxconv.resampling.axis_maps import resize_map


def kernel(t, method, a):
    t = abs(t)
    if method == "linear":
        return max(1 - t, 0.0)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def matrix(n, m, method, align_corners=False, antialias=False, scale=None, a=None):
    """One axis of resize, entry by entry."""
    A = np.zeros((m, n))
    for o in range(m):
        step = 1 / scale if scale else n / m
        if method == "nearest":
            A[o, min(math.floor(o * step + 1e-12), n - 1)] = 1
        elif method == "nearest-exact":
            A[o, min(math.floor((o + 0.5) * step + 1e-12), n - 1)] = 1
        elif method == "area":
            i, j = math.floor(o * n / m), math.ceil((o + 1) * n / m)
            A[o, i:j] = 1 / (j - i)
        else:
            if align_corners:
                step = (n - 1) / (m - 1) if m > 1 else 0
            at = o * step if align_corners else (o + 0.5) * step - 0.5
            wide = max(step, 1) if antialias else 1
            c = (-0.5 if antialias else -0.75) if a is None else a
            for j in range(-4 * n - 8, 5 * n + 8):
                w = kernel((j - at) / wide, method, c)
                if antialias and not 0 <= j < n:
                    continue
                A[o, min(max(j, 0), n - 1)] += w
            if antialias:
                A[o] /= A[o].sum()
    return A


SIZES = [(5, 10), (5, 3), (4, 4), (1, 6), (6, 1), (7, 21), (9, 4), (3, 8), (12, 30), (12, 5), (64, 3)]
METHODS = [(m, ac, aa) for m in ("linear", "cubic") for ac in (False, True) for aa in (False, True)]
METHODS += [("nearest", False, False), ("nearest-exact", False, False), ("area", False, False)]


@pytest.mark.parametrize("method, align_corners, antialias", METHODS)
def test_the_matrix_of_an_axis_is_its_definition(method, align_corners, antialias):
    for n, m in SIZES:
        got = resize_map(n, m, method, align_corners=align_corners, antialias=antialias).dense()
        np.testing.assert_allclose(got, matrix(n, m, method, align_corners, antialias), atol=1e-12, err_msg=f"{n} {m}")
        if not align_corners and method != "area":
            for scale in (m / n * 1.04, m / n * 1.01):
                got = resize_map(n, m, method, antialias=antialias, scale=scale).dense()
                want = matrix(n, m, method, False, antialias, scale)
                np.testing.assert_allclose(got, want, atol=1e-12, err_msg=f"{n} {m} scale {scale}")


@pytest.mark.parametrize("method, n, m, flags", [
    ("linear", (5, 7), (10, 21), {}), ("linear", (8, 6), (5, 3), {"antialias": True}),
    ("linear", (3, 5), (9, 17), {"align_corners": True}), ("cubic", (5, 5), (10, 7), {"cubic_coeff": -0.6}),
    ("nearest", (3, 4), (9, 10), {}), ("nearest", (6, 7), (3, 5), {}), ("nearest-exact", (5, 4), (13, 4), {}),
    ("area", (7, 6), (3, 3), {}), ("linear", (20, 33), (30, 129), {}),
])  # fmt: skip
def test_resize_applies_its_matrices_and_their_transposes(method, n, m, flags, x64):
    rng = np.random.default_rng(0)
    A = [matrix(a, b, method, flags.get("align_corners", False), flags.get("antialias", False),
                a=flags.get("cubic_coeff")) for a, b in zip(n, m)]  # fmt: skip
    x, g = rng.standard_normal((2, *n, 3)), rng.standard_normal((2, *m, 3))
    y, pull = jax.vjp(lambda x: jc.resize(x, m, method=method, **flags), x)
    np.testing.assert_allclose(y, np.einsum("pi,qj,bijc->bpqc", *A, x), atol=1e-12)
    np.testing.assert_allclose(pull(g)[0], np.einsum("pi,qj,bpqc->bijc", *A, g), atol=1e-12)
    tangent = jax.jvp(lambda x: jc.resize(x, m, method=method, **flags), (x,), (x,))[1]
    np.testing.assert_allclose(tangent, y, atol=1e-12)


def test_resize_by_scale_takes_the_floor_and_other_ranks_and_types(x64):
    x = np.random.default_rng(1).standard_normal((2, 5, 2))
    np.testing.assert_allclose(
        jc.resize(x, scale=1.5), np.einsum("pi,bic->bpc", matrix(5, 7, "linear", scale=1.5), x), atol=1e-12
    )
    volume = np.random.default_rng(2).standard_normal((3, 4, 2, 1))
    np.testing.assert_allclose(
        jc.resize(volume, (4, 3, 4)),
        np.einsum("pi,qj,rk,ijkc->pqrc", *(matrix(a, b, "linear") for a, b in zip((3, 4, 2), (4, 3, 4))), volume),
        atol=1e-12,
    )
    for dtype in ("int32", "bool", "uint8"):
        z = jnp.asarray(x > 0, dtype)
        for size in (10, 7, 3):
            got = jc.resize(z, size, method="nearest")
            assert got.dtype == z.dtype
            np.testing.assert_array_equal(got, np.asarray(z)[:, np.arange(size) * 5 // size])
    half = jnp.asarray(x, jnp.bfloat16)
    want = jc.resize(half.astype(jnp.float32), 9).astype(jnp.bfloat16)
    np.testing.assert_array_equal(jc.resize(half, 9), want)


def test_nearest_copies_values_that_arithmetic_would_spoil():
    x = jnp.asarray([np.inf, 1.0, np.nan, -np.inf]).reshape(1, 4, 1)
    for size in (8, 7, 3):
        np.testing.assert_array_equal(
            jc.resize(x, size, method="nearest")[0, :, 0], x[0, np.arange(size) * 4 // size, 0]
        )


@pytest.mark.parametrize("order", ["CRD", "DCR"])
@pytest.mark.parametrize("sizes, r", [((3,), (2,)), ((2, 3), (3, 2)), ((2, 1, 2), (1, 2, 2))])
def test_pixel_shuffle_is_its_definition(sizes, r, order):
    P, C = math.prod(r), 3
    x = np.arange(2 * math.prod(sizes) * P * C).reshape(2, *sizes, P * C)
    want = np.zeros((2, *(n * s for n, s in zip(sizes, r)), C), int)
    for b, q, t, c in itertools.product(range(2), np.ndindex(*sizes), np.ndindex(*r), range(C)):
        flat = int(np.ravel_multi_index(t, r))
        channel = c * P + flat if order == "CRD" else flat * C + c
        want[(b, *(i * s + j for i, s, j in zip(q, r, t)), c)] = x[(b, *q, channel)]
    got = jc.pixel_shuffle(x, r, order=order)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(jc.pixel_unshuffle(got, r, order=order), x)


FOLDS = [
    ((5,), (3,), (2,), (1,), ((1, 1),)),
    ((4, 5), (2, 3), (1, 2), (2, 1), ((0, 1), (1, 1))),
    ((6, 6), (3, 3), (3, 3), (1, 1), ((0, 0), (0, 0))),
    ((3, 2, 3), (2, 1, 2), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3),
    # more taps than are sliced one by one: in two levels, by blocks, with both, and cropped
    ((90,), (70,), (1,), (1,), ((3, 5),)),
    ((90,), (70,), (3,), (1,), ((-2, 4),)),
    ((99,), (34,), (2,), (2,), ((3, -5),)),
    ((3, 50), (2, 40), (1, 7), (3, 1), ((1, 0), (2, 2))),
    ((5, 5, 5), (5, 4, 4), (1, 1, 1), (1, 1, 1), ((0, 1), (1, 1), (2, 0))),
]


@pytest.mark.parametrize("sizes, k, s, d, pads", FOLDS)
def test_unfold_and_fold_are_their_definitions(sizes, k, s, d, pads, x64):
    C, rng = 2, np.random.default_rng(3)
    out = tuple((n + lo + hi - dd * (kk - 1) - 1) // ss + 1 for n, kk, ss, dd, (lo, hi) in zip(sizes, k, s, d, pads))
    x, cols = rng.standard_normal((2, *sizes, C)), rng.standard_normal((2, *out, math.prod(k) * C))
    want, back = np.zeros_like(cols), np.zeros_like(x)
    for q, t in itertools.product(np.ndindex(*out), np.ndindex(*k)):
        u = tuple(i * ss + j * dd - lo for i, ss, j, dd, (lo, _) in zip(q, s, t, d, pads))
        if all(0 <= i < n for i, n in zip(u, sizes)):
            at = int(np.ravel_multi_index(t, k)) * C
            want[(slice(None), *q, slice(at, at + C))] = x[(slice(None), *u)]
            back[(slice(None), *u)] += cols[(slice(None), *q, slice(at, at + C))]
    kwargs = dict(stride=s, dilation=d, padding=pads)
    np.testing.assert_array_equal(jc.unfold(x, k, **kwargs), want)
    np.testing.assert_allclose(jc.fold(cols, sizes, k, **kwargs), back, atol=1e-12)
    np.testing.assert_allclose(jax.vjp(lambda x: jc.unfold(x, k, **kwargs), x)[1](cols)[0], back, atol=1e-12)
    np.testing.assert_allclose(jax.vjp(lambda c: jc.fold(c, sizes, k, **kwargs), cols)[1](x)[0], want, atol=1e-12)


def test_unfold_times_kernel_is_the_convolution():
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 5, 6, 3)).astype("float32"), rng.standard_normal((3, 2, 3, 4)).astype("float32")
    kwargs = dict(stride=(1, 2), padding=1, dilation=(1, 2))
    cols = jc.unfold(x, (3, 2), **kwargs) @ w.reshape(-1, 4)
    np.testing.assert_allclose(cols, jc.conv(x, w, **kwargs), atol=1e-5)


@pytest.mark.slow
def test_second_order_vmap_and_batch_axes(x64):
    x = np.random.default_rng(5).standard_normal((2, 3, 4, 4, 4))
    calls = {
        "resize": lambda x: jc.resize(x, (6, 7)) ** 3,
        "pixel_shuffle": lambda x: jc.pixel_shuffle(x, (2, 2)) ** 3,
        "pixel_unshuffle": lambda x: jc.pixel_unshuffle(x, (2, 2)) ** 3,
        "unfold": lambda x: jc.unfold(x, (2, 2)) ** 3,
        "fold": lambda x: jc.fold(x, (5, 5), (2, 2)) ** 3,
    }
    for name, f in calls.items():
        np.testing.assert_allclose(jax.vmap(f)(x), f(x), atol=1e-12, err_msg=name)
        np.testing.assert_allclose(f(x)[1, 2], f(x[1, 2]), atol=1e-12, err_msg=name)
        check_grads(f, (x[0, :1],), order=2, modes=("fwd", "rev"))
        assert name in [e.params.get("name") for e in jax.make_jaxpr(f)(x).eqns]


@pytest.mark.parametrize("call, words", [
    (lambda x: jc.resize(x), "size=None"), (lambda x: jc.resize(x, 4, scale=2), "scale=2"),
    (lambda x: jc.resize(x, 0), "size=0"), (lambda x: jc.resize(x, (4, 4, 4, 4)), "4 spatial axes"),
    (lambda x: jc.resize(x, 4, method="bilinear"), "bilinear"), (lambda x: jc.resize(x, scale=0.01), "0.01"),
    (lambda x: jc.resize(x, scale=-1.0), "-1.0"), (lambda x: jc.resize(x, scale=float("nan")), "nan"),
    (lambda x: jc.resize(x, 4, method="area", align_corners=True), "align_corners"),
    (lambda x: jc.resize(x, 4, method="nearest", antialias=True), "antialias"),
    (lambda x: jc.resize(x, 4, cubic_coeff=-0.5), "cubic_coeff"),
    (lambda x: jc.resize(x.astype(int), 4), "int"), (lambda x: jc.resize(x, 2.5), "2.5"),
    (lambda x: jc.pixel_shuffle(x, 2), "3 channels"), (lambda x: jc.pixel_shuffle(x, 1, order="X"), "'X'"),
    (lambda x: jc.pixel_unshuffle(x, 4), "factor=4"), (lambda x: jc.pixel_unshuffle(x, 0), "factor=0"),
    (lambda x: jc.unfold(x, 9), "window=9"), (lambda x: jc.fold(x, 9, 2), "output_size=9"),
    (lambda x: jc.fold(x, (6, 7), 2), "3 channels"),
])  # fmt: skip
def test_refusals_name_the_value(call, words):
    with pytest.raises((ValueError, TypeError)) as error:
        call(jnp.zeros((1, 5, 6, 3)))
    assert words in str(error.value)


@pytest.mark.parametrize("n, m, method", [(3, 120, "linear"), (100, 2, "area")])
def test_maps_with_many_taps(n, m, method, x64, monkeypatch):
    rng, A = np.random.default_rng(6), matrix(n, m, method)
    for largest, channels in ((axis_reads._LARGEST_DENSE, 2), (axis_reads._LARGEST_DENSE, 9), (0, 2)):
        x, g = rng.standard_normal((2, n, channels)), rng.standard_normal((2, m, channels))
        monkeypatch.setattr(axis_reads, "_LARGEST_DENSE", largest)
        jax.clear_caches()
        y, pull = jax.vjp(lambda x: jc.resize(x, m, method=method), x)
        np.testing.assert_allclose(y, np.einsum("pi,bic->bpc", A, x), atol=1e-12)
        np.testing.assert_allclose(pull(g)[0], np.einsum("pi,bpc->bic", A, g), atol=1e-12)


def test_axis_maps_are_what_their_taps_say_and_refuse_others(x64):
    m = axis_maps.AxisMap(3, np.array([[0, 0], [2, 1]]), np.array([[0.5, 0.25], [2.0, 0.0]]))
    np.testing.assert_array_equal(m.dense(), [[0.75, 0, 0], [0, 0, 2.0]])
    np.testing.assert_array_equal(m.transpose.dense(), m.dense().T)
    assert m == axis_maps.AxisMap(3, np.array([[0], [2]]), np.array([[0.75], [2.0]])) and m != m.transpose
    x = np.arange(6.0).reshape(1, 3, 2)
    np.testing.assert_array_equal(axis_reads.apply_axis_maps(x, [m]), [[[0, 0.75], [8, 10]]])
    np.testing.assert_array_equal(axis_reads.apply_axis_maps(x, [None]), x)
    for taps in ([[3]], [[-1]]):
        with pytest.raises(ValueError, match="0 .. 2"):
            axis_maps.AxisMap(3, np.array(taps), np.ones((1, 1)))
    with pytest.raises(ValueError, match="size 2"):
        axis_reads.apply_axis_maps(x[:, :2], [m])


def test_gradient_of_repeated_samples_adds_strided_slices():
    """Not a reduction over small axes, which XLA's CPU compiler does not vectorise."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 4, 3)), jnp.float32)
    _, pull = jax.vjp(lambda x: jc.resize(x, (10, 12), method="nearest"), x)
    ct = jnp.asarray(np.random.default_rng(1).standard_normal((2, 10, 12, 3)), jnp.float32)
    np.testing.assert_allclose(pull(ct)[0], ct.reshape(2, 5, 2, 4, 3, 3).sum((2, 4)), rtol=1e-5, atol=1e-5)
    text = jax.jit(pull).lower(ct).as_text()
    assert "stablehlo.slice" in text and "stablehlo.reduce" not in text and "gather" not in text


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_many_taps_of_short_axes_are_one_product(batch):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((*batch, 20, 11, 2)), jnp.float32)
    f = jax.jit(lambda x: jc.resize(x, (9, 4), method="cubic", antialias=True))
    assert "dot_general" in str(jax.make_jaxpr(f)(x))
    A, B = (resize_map(n, m, "cubic", antialias=True).dense() for n, m in ((20, 9), (11, 4)))
    np.testing.assert_allclose(f(x), np.einsum("oh,pw,...hwc->...opc", A, B, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method, factor, antialias, shape", [
    ("cubic", 2, False, (2, 7, 5, 3)), ("cubic", 3, False, (1, 1, 5, 20)), ("cubic", 4, True, (6, 5, 1)),
    ("linear", 4, False, (2, 3, 6, 5, 2)), ("linear", 16, False, (1, 3, 4, 1)),
])  # fmt: skip
def test_enlarging_by_a_whole_factor_reads_shifted_copies(method, factor, antialias, shape):
    """The same matrices as by gathers, and what an output does not read does not reach it: not even infinity."""
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    size = tuple(n * factor for n in shape[-3:-1])
    f = jax.jit(lambda x: jc.resize(x, size, method=method, antialias=antialias))
    assert "gather" not in str(jax.make_jaxpr(lambda x: jc.resize(x, (shape[-3], size[1]), method=method))(x))
    A, B = (resize_map(n, m, method, antialias=antialias).dense() for n, m in zip(shape[-3:-1], size))
    np.testing.assert_allclose(f(x), np.einsum("oh,pw,...hwc->...opc", A, B, x), rtol=1e-5, atol=1e-5)
    x[..., shape[-3] // 2, shape[-2] // 2, 0] = np.nan
    reached = np.outer(A[:, shape[-3] // 2] != 0, B[:, shape[-2] // 2] != 0)
    np.testing.assert_array_equal(np.isnan(f(x)[..., 0]), np.broadcast_to(reached, (*shape[:-3], *size)))


def test_maps_that_are_shifts():
    for method, factor, antialias in itertools.product(("linear", "cubic"), (2, 3, 5, 16), (False, True)):
        for n in (1, 2, 3, 4, 9):
            m = resize_map(n, n * factor, method, antialias=antialias)
            if m.shifts is None:
                assert n < 4, "only where an axis is shorter than the kernel"
                continue
            first, w = m.shifts
            matrix = np.zeros((n, factor, n))
            for k, p, i in np.ndindex(w.shape):
                if 0 <= p + first + k < n:
                    matrix[p, i, p + first + k] += w[k, p, i]
                else:
                    assert w[k, p, i] == 0
            np.testing.assert_array_equal(matrix.reshape(n * factor, n), m.dense())
    for other in (resize_map(4, 6), resize_map(6, 3), resize_map(4, 80)):
        assert other.shifts is None
    assert axis_maps.selection_map(3, np.array([2, 1, 0, 2, 1, 0])).shifts is None


@pytest.mark.parametrize(
    "method, size", [("linear", (18, 24)), ("cubic", (13, 31)), ("area", (4, 5)), ("nearest", (13, 24))]
)
def test_what_tpus_run_is_the_same_resize(method, size):
    """Products with the matrices of the axes, run here: values, gradients, and an error no larger than jax.image's."""
    rng = np.random.default_rng(12)
    x, maps = rng.standard_normal((2, 9, 12, 3)), [resize_map(n, m, method) for n, m in zip((9, 12), size)]
    form = functools.partial(products.apply, todo=list(enumerate(maps, 1)))
    matrices = [m.dense() for m in maps]
    got, pull = jax.vjp(form, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, np.einsum("nhwc,ph,qw->npqc", x, *matrices), atol=1e-5)
    ct = rng.standard_normal(got.shape)
    np.testing.assert_allclose(
        pull(jnp.asarray(ct, jnp.float32))[0], np.einsum("npqc,ph,qw->nhwc", ct, *matrices), atol=1e-5
    )
    half = jnp.asarray(x, jnp.bfloat16)
    want = np.einsum("nhwc,ph,qw->npqc", np.asarray(half, np.float64), *matrices)
    # Rounded after each of the two axes, weights not at all.
    off = np.asarray(form(half), np.float64) - want
    assert np.sqrt(np.mean(off**2) / np.mean(want**2)) <= 2.6e-3


def test_tpus_are_given_products_and_others_reads():
    x = jnp.ones((1, 8, 8, 4), jnp.bfloat16)
    f = jax.jit(functools.partial(jc.resize, size=(16, 16)))
    products_of = {
        platform: len(re.findall("stablehlo.dot_general", f.trace(x).lower(lowering_platforms=(platform,)).as_text()))
        for platform in ("cpu", "cuda", "tpu")
    }
    assert products_of == {"cpu": 0, "cuda": 0, "tpu": 2}


def test_fold_sums_half_precision_in_float32():
    cols = jnp.asarray(np.random.default_rng(13).standard_normal((1, 6, 6, 25)), jnp.bfloat16)
    want = jc.fold(cols.astype(jnp.float32), (6, 6), (5, 5), padding=2).astype(jnp.bfloat16)
    np.testing.assert_array_equal(jc.fold(cols, (6, 6), (5, 5), padding=2), want)


@pytest.mark.parametrize("padding", [0, [(1, 2), (0, 0)], [(-1, 1), (2, -3)]], ids=str)
def test_columns_of_blocks_are_a_change_of_view(padding):
    """Windows as wide as their stride: against the kernel of unit matrices, with its transpose, and no slice a tap."""
    x = jnp.asarray(np.random.default_rng(14).standard_normal((2, 9, 12, 3)), jnp.float32)
    unit = jnp.eye(2 * 4 * 3).reshape(2, 4, 3, 24)
    want = jc.conv(x, unit, stride=(2, 4), padding=padding)
    cols = jc.unfold(x, (2, 4), stride=(2, 4), padding=padding)
    np.testing.assert_allclose(cols, want, atol=1e-6)
    back = jc.fold(jnp.sin(cols), (9, 12), (2, 4), stride=(2, 4), padding=padding)
    np.testing.assert_allclose(
        back, jc.conv_transpose(jnp.sin(cols), unit, stride=(2, 4), padding=padding, output_size=(9, 12)), atol=1e-6
    )
    text = jax.jit(functools.partial(jc.unfold, window=(2, 4), stride=(2, 4), padding=padding)).lower(x).as_text()
    assert "concatenate" not in text


@pytest.mark.parametrize("window, stride", [((512,), 1), ((512,), 128), ((31, 31), 1), ((31, 31), 4)], ids=str)
def test_programs_of_large_windows_are_short(window, stride):
    x = jax.ShapeDtypeStruct((1, *(2 * k for k in window), 2), jnp.float32)
    cut = functools.partial(jc.unfold, window=window, stride=stride)
    for f in (cut, jax.grad(lambda x: jnp.sum(cut(x) ** 2))):
        text = jax.jit(f).lower(x).as_text()
        assert len(re.findall(r"stablehlo\.(?:slice|pad|concatenate|add)\b", text)) < 150 < math.prod(window)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
@pytest.mark.parametrize("method, antialias", [("linear", False), ("cubic", False), ("cubic", True), ("area", False)])
def test_small_integers_round_halves_up_and_stay_in_range(dtype, method, antialias, rng):
    limits = np.iinfo(dtype)
    x = rng.choice([limits.min, limits.max, limits.max // 2], (1, 5, 7, 2)).astype(dtype)
    y = jc.resize(x, (9, 4), method=method, antialias=antialias)
    exact = np.asarray(jc.resize(x.astype(np.float32), (9, 4), method=method, antialias=antialias), np.float64)
    expected = np.clip(np.floor(exact + 0.5), limits.min, limits.max)
    assert y.dtype == dtype and (method != "cubic" or (exact > limits.max).any())  # cubic overshoots: it has to be cut
    np.testing.assert_array_equal(np.asarray(y, np.float64), expected)


def test_flat_images_of_small_integers_stay_flat():
    flat = np.full((1, 6, 6, 1), 200, np.uint8)
    for settings in ({"method": "linear"}, {"method": "cubic"}, {"method": "linear", "antialias": True}):
        assert (np.asarray(jc.resize(flat, (4, 9), **settings)) == 200).all()
    with pytest.raises(TypeError, match="at most 16 bits .* got int32"):
        jc.resize(flat.astype(np.int32), (4, 9))
    with jax.enable_x64(True):
        for value in (2**31 - 1, -(2**31)):
            assert (np.asarray(jc.resize(np.full((1, 6, 6, 1), value, np.int32), (4, 9))) == value).all()
        with pytest.raises(TypeError, match="got int64"):
            jc.resize(flat.astype(np.int64), (4, 9))


def test_scales_that_are_quotients_of_sizes_give_these_sizes():
    pairs = itertools.product(range(1, 300), repeat=2)
    assert not [(n, m) for n, m in pairs if resample._scaled(n, m / n) != m]
    assert jc.resize(jnp.ones((1, 88, 1)), scale=120 / 88).shape == (1, 120, 1)
    assert jc.resize(jnp.ones((1, 10, 1)), scale=0.99).shape == (1, 9, 1)


def test_signals_of_seconds_are_resized_and_pooled_without_tables_of_their_length_squared():
    """The form for TPUs is traced on every platform: its matrix had 4 * 10^10 entries here."""
    n = 100_000
    x = jnp.arange(n, dtype=jnp.float32)[None, :, None]
    got = jax.jit(lambda x: jc.resize(x, 2 * n))(x)[0, :, 0]
    np.testing.assert_allclose(
        got, np.interp((np.arange(2 * n) + 0.5) / 2 - 0.5, np.arange(n), np.arange(n)), rtol=1e-6
    )
    small = jax.vjp(lambda x: jc.resize(x, n // 2, antialias=True), x)[1](jnp.ones((1, n // 2, 1)))[0]
    np.testing.assert_allclose(small[0, 8:-8, 0], 0.5, rtol=1e-6)
    y, at = jc.max_pool(x, 3, stride=2, padding=1, return_indices=True)
    np.testing.assert_array_equal(at[0, :, 0], np.minimum(2 * np.arange(n // 2) + 1, n - 1))
    np.testing.assert_array_equal(y[0, :, 0], at[0, :, 0])
