"""Bugs that were met, and the corners that the random geometries do not reach often enough."""

import itertools

import jax
import numpy as np
import pytest
import reference
from cases import Case
from jax import lax
from jax.experimental import checkify, sparse
from test_core_faces import error

import jaxconv as jc
from jaxconv import dialects, trilinear
from jaxconv.geometry import ConvGeometry


@pytest.mark.parametrize("seed", range(5))
def test_negative_pads_in_one_dimension(seed):
    """jax 0.10.2 on CPU computes a plain 1-D convolution with pads (-1, 1) wrongly; no lowering may hand such pads to
    XLA."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 9, 3)).astype(np.float32), rng.standard_normal((3, 3, 4)).astype(np.float32)
    record = reference.geometry_of((9,), (3,), s=(1,), d=(1,), padding=((-1, 1),))
    assert error(jc.conv(x, w, padding=((-1, 1),)), reference.conv(x, w, record)) <= 1e-5


@pytest.mark.parametrize("wide,rows", [(3, 3), (4, 3), (3, 2), (5, 4)])
def test_kernels_larger_than_their_input_beside_an_axis_like_groups(wide, rows, x64):
    """XLA on CPU takes an axis of 2 taps, stride 2 and pad 1 for groups while it exchanges kernel and input, which ends
    the process: of the gradient of lax.conv_general_dilated, too."""
    rng = np.random.default_rng(0)
    y, w = rng.standard_normal((1, rows, 2, 3)), rng.standard_normal((2, wide, 2, 3))
    n = (2 * (rows - 1), wide + 1)
    record = reference.geometry_of(n, (2, wide), s=(2, 1), d=(1, 1), padding=((1, 1), (0, 0)))
    got = jax.jit(lambda y, w: jc.conv_transpose(
        y, w, stride=(2, 1), padding=((1, 1), (0, 0)), output_size=n, method="lax"))(y, w)  # fmt: skip
    assert error(got, reference.conv_transpose(y, w, record)) <= 1e-12


@pytest.mark.parametrize("pads", [((-1, 1), (1, -1)), ((-2, -1), (-1, -2)), ((3, -2), (-3, 4))], ids=str)
def test_no_negative_pads_reach_xla(pads):
    x, w = np.ones((1, 9, 9, 2), np.float32), np.ones((2, 3, 2, 2), np.float32)

    def everything(x, w):
        y, pull = jax.vjp(lambda x, w: jc.conv(x, w, padding=pads, stride=2, method="lax"), x, w)
        return pull(y)

    text = jax.jit(everything).lower(x, w).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) >= 2
    for line in convolutions:
        window = line.split("window = {")[1].split("}")[0]
        pad = window.split("pad = [[")[1].split("]]")[0] if "pad = [[" in window else "0"
        assert "-" not in pad, line


@pytest.mark.parametrize("seed", range(12))
def test_faces_with_a_base_dilation(seed, x64):
    """What jax's own differentiation produces: all three spacings at once, negative pads among them."""
    rng = np.random.default_rng(seed)
    while True:
        rank = int(rng.integers(1, 3))
        n, k = (tuple(int(v) for v in rng.integers(1, 6, rank)) for _ in range(2))
        b, d, s = (tuple(int(v) for v in rng.integers(1, 4, rank)) for _ in range(3))
        pads = tuple((int(rng.integers(-3, 4)), int(rng.integers(-3, 4))) for _ in range(rank))
        record = reference.geometry_of(n, k, s=s, d=d, b=b, padding=pads)
        if min(record["m"]) >= 1:
            break
    g = ConvGeometry.resolve(input_size=n, kernel_size=k, stride=s, dilation=d, base_dilation=b, padding=pads, groups=2)
    assert g.output_size == record["m"]
    x, w = rng.standard_normal((2, *n, 4)), rng.standard_normal((*k, 2, 6))
    y = rng.standard_normal((2, *g.output_size, 6))
    said = f"{g}"
    assert (
        error(trilinear.apply(jax.numpy.asarray(x), jax.numpy.asarray(w), g), reference.conv(x, w, record, 2)) <= 1e-10
    ), said
    assert (
        error(
            trilinear.adjoint(jax.numpy.asarray(y), jax.numpy.asarray(w), g), reference.conv_transpose(y, w, record, 2)
        )
        <= 1e-10
    ), said
    assert (
        error(trilinear.kernel(jax.numpy.asarray(x), jax.numpy.asarray(y), g), reference.conv_kernel(x, y, record, 2))
        <= 1e-10
    ), said


@pytest.mark.parametrize("method", ["auto", "taps", "phases"])
@pytest.mark.parametrize("dilation", [(2, 1), (1, 1), (3, 1)], ids=str)
def test_depthwise_with_a_stride_on_one_axis_and_a_dilation_on_the_other(method, dilation, x64):
    """The phases of a depthwise adjoint once forgot the dilation of the axes that are not strided."""
    case = Case((5, 5), (2, 3), (1, 2), dilation, ((1, 1), (0, 1)), groups=2, channels=(1, 1))
    _, w, y = case.arrays()
    got = jc.conv_transpose(y, w, **case.params, output_size=case.n, method=method)
    assert error(got, reference.conv_transpose(y, w, case.record, case.groups)) <= 1e-12


def test_pads_beyond_the_input_and_inputs_cropped_away(x64):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, 1, 1))
    for n, lo, hi in itertools.product((1, 3), (-4, 0, 5), (-1, 0, 6)):
        record = reference.geometry_of((n,), (2,), s=(1,), d=(1,), padding=((lo, hi),))
        if min(record["m"]) < 1:
            continue
        x, y = rng.standard_normal((1, n, 1)), rng.standard_normal((1, *record["m"], 1))
        assert error(jc.conv(x, w, padding=((lo, hi),)), reference.conv(x, w, record)) <= 1e-12
        got = jc.conv_transpose(y, w, padding=((lo, hi),), output_size=n)
        assert error(got, reference.conv_transpose(y, w, record)) <= 1e-12
        assert error(jc.conv_kernel(x, y, (2,), padding=((lo, hi),)), reference.conv_kernel(x, y, record)) <= 1e-12


@pytest.mark.slow
def test_the_adjoint_in_the_words_of_lax(x64):
    """SEMANTICS: lhs_dilation=s, rhs_dilation=d, flipped kernel, padding=(K-1-pl, n-1-(i-1)*s+pl), for every legal
    n."""
    rng = np.random.default_rng(1)
    for k, s, d, pl, ph, i in itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (0, 1), (0, 2), (3,)):
        y, w = rng.standard_normal((1, i, 3)), rng.standard_normal((k, 2, 3))
        extent = d * (k - 1) + 1
        legal = ConvGeometry.resolve(
            input_size=(20,), kernel_size=(k,), stride=s, dilation=d, padding=((pl, ph),)
        ).legal_input_sizes(i)[0]
        for n in legal:
            pads = (extent - 1 - pl, n - 1 - (i - 1) * s + pl)
            if min(pads) < 0:
                continue  # a peer that may compute these wrongly is no witness
            want = lax.conv_general_dilated(
                y,
                np.swapaxes(w[::-1], 1, 2),
                (1,),
                [pads],
                lhs_dilation=(s,),
                rhs_dilation=(d,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
            got = jc.conv_transpose(y, w, stride=s, dilation=d, padding=((pl, ph),), output_size=n)
            assert error(got, np.asarray(want)) <= 1e-12, (k, s, d, pl, ph, i, n)


def test_tools_that_look_at_primitives_as_the_conventions_say():
    x, w = jax.numpy.ones((1, 8, 3)), jax.numpy.ones((3, 3, 2))

    def f(x, w):
        y = jc.conv(x, w, method="lax")
        checkify.check(jax.numpy.isfinite(y).all(), "y is not finite")
        return y

    err, _ = checkify.checkify(jax.jit(f), errors=checkify.user_checks)(x.at[0, 0, 0].set(np.nan), w)
    assert "y is not finite" in err.get()
    plain = jax.jit(lambda x, w: jc.conv(x, w, method="lax"))
    assert plain.lower(x, w).compile().cost_analysis()["flops"] >= 2 * 6 * 3 * 3 * 2
    with pytest.raises(NotImplementedError, match="conv_apply"):
        sparse.sparsify(plain)(sparse.BCOO.fromdense(x), w)
    few = sparse.BCOO.fromdense(x)
    np.testing.assert_array_equal(plain(few.todense(), w), plain(x, w))
    calls = (jc.conv, lambda x, w: jc.max_pool(x, 2), lambda x, w: dialects.torch.conv1d(x, w))
    for call in calls:  # NumPy would read them number by number
        with pytest.raises(TypeError, match="a BCOO is sparse; make it dense before the call"):
            call(few, w)
