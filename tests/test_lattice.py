"""One record of the lattice: its arithmetic against counting on the line, and a change of it in one place seen
everywhere."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv as jc
from jaxconv import lattice
from jaxconv.lattice import Relation, Window
from jaxconv.lowering import taps


def random_relations(count, seed, base=4):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, m, k = rng.integers(1, 8, 3).tolist()
        s, d, b = rng.integers(1, (5, 5, base)).tolist()
        yield Relation(n, m, k, s, d, b, int(rng.integers(-9, 10)))


def meetings(r):
    """All (u, q, t) on one point of the line, by trying every triple."""
    triples = itertools.product(range(r.n_in), range(r.n_out), range(r.taps))
    return {(u, q, t) for u, q, t in triples if r.base * u + r.low == r.stride * q + r.dilation * t}


@pytest.mark.parametrize("seed", range(3))
def test_every_question_is_answered_as_by_counting(seed):
    for r in random_relations(100, seed):
        found = meetings(r)
        met = r.met()
        assert {(int(met[q, t]), q, t) for q, t in zip(*np.nonzero(met >= 0), strict=True)} == found, r
        inside = (r.reads() >= 0) & (r.reads() < r.n_in)
        assert np.array_equal(np.where(inside, r.reads(), -1), met)
        assert {(q, u, r.taps - 1 - t) for u, q, t in meetings(r.transposed())} == found, r
        if r.base == 1:
            boxes = {t: r.box(t) for t in range(r.taps)}
            runs = {(u + r.stride * i, q + i, t) for t, (q, u, count) in boxes.items() for i in range(count)}
            assert runs == found, r


@pytest.mark.parametrize("roles", list(itertools.permutations("xwy")), ids="".join)
def test_every_tensor_can_play_every_part(roles):
    """As many coincidences, at the same elements of each tensor, the third one counted from its end."""
    for r in random_relations(60, 7):
        cast, size = r.recast(*roles), {"x": r.n_in, "y": r.n_out, "w": r.taps}
        flipped = None if roles[0] == "x" else next(iter({"w", "y"} - {roles[0]}))
        expected = set()
        for u, q, t in meetings(r):
            at = {"x": u, "y": q, "w": t}
            if flipped:
                at[flipped] = size[flipped] - 1 - at[flipped]
            expected.add((at[roles[0]], at[roles[2]], at[roles[1]]))
        assert meetings(cast) == expected, (r, roles)


def test_phases_are_counted_away_from_the_borders():
    for r in random_relations(60, 11):
        wide = Relation(400, 400, r.taps, r.stride, r.dilation, r.base, r.low)
        counts = (wide.reads() != lattice.NOWHERE).sum(axis=1)
        taps, reads = r.taps_per_phase(), r.reads_per_phase()
        period = len(taps)
        assert counts[: 8 * period].tolist() == list(taps) * 8
        # As many coincidences on a length of the line, counted at the outputs (every s) and at the inputs (every b).
        assert sum(taps) * len(reads) * r.base == sum(reads) * period * r.stride


@pytest.mark.parametrize("padding", [*lattice.PADDING_RULES, (0, 0), (2, -1), (1, 3)], ids=str)
def test_legal_sizes_are_those_that_give_the_output(padding):
    for k, s, d, b in itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (1, 2)):
        window = Window(k, s, d, b, padding)
        for m in range(1, 6):
            sizes = [n for n in range(1, 40) if window.output_size(n) == m]
            assert list(window.legal_input_sizes(m)) == sizes, (window, m)
            for n in sizes:
                assert 0 <= window.pads(n)[1] - window.over(n).least_high < s


def test_ceil_mode_adds_a_window_for_the_rest_that_starts_inside():
    assert [Window(3, 2).output_size(n) for n in (5, 6, 7)] == [2, 2, 3]
    assert [Window(3, 2).output_size(n, ceil_mode=True) for n in (5, 6, 7)] == [2, 3, 3]
    assert Window(2, 3, padding=(1, 1)).output_size(4, ceil_mode=True) == 2  # the third would start behind the input


# ---------------------------------------------------------------------- changed in one place, changed everywhere
X = np.arange(24, dtype=np.float32).reshape(1, 12, 2)
W = np.arange(12, dtype=np.float32).reshape(3, 2, 2)


def everything(padding, stride):
    """Whatever pads along an axis, with a window of 3: results and what the analysis reads off them."""
    settings = {"stride": stride, "padding": padding}
    layer = jc.nn.Conv(2, 2, (3,), use_bias=False, rngs=nnx.Rngs(0), **settings)
    layer.kernel[...] = jnp.asarray(W)
    y = jc.conv(X, W, **settings)
    field = jc.analysis.receptive_field(lambda x: jc.conv(x, W, **settings), jnp.asarray(X))
    return {
        "conv": y,
        "transpose": jc.conv_transpose(y, W, output_size=12, **settings),
        "kernel": jc.conv_kernel(X, y, (3,), **settings),
        "layer": layer(jnp.asarray(X)),
        "matrix": jc.conv_matrix(W, (12,), format="dense", **settings),
        "operator": jc.ConvOperator(W, (12,), **settings).mv(X),
        "max_pool": jc.max_pool(X, (3,), **settings),
        "avg_pool": jc.avg_pool(X, (3,), count_include_pad=False, **settings),
        "pooling layer": jc.nn.MaxPool((3,), **settings)(jnp.asarray(X)),
        "unfold": jc.unfold(X, (3,), **settings),
        "fold": jc.fold(jc.unfold(X, (3,), **settings), (12,), (3,), **settings),
        "field": np.asarray([field.counts((q,)) for q in range(y.shape[1])]),
        "accelerated": jc.accelerate(lambda x: jc.conv(x, W, method="lax", **settings))(X),
    }


@pytest.mark.parametrize("stride", [1, 2])
def test_a_padding_rule_is_registered_in_one_place(stride, monkeypatch):
    """PyTorch's "full": extent - 1 on both sides. Nothing but the table knows of it."""
    rule = lattice.PaddingRule(lambda span, extent, stride: (extent - 1, extent - 1), covers=False)
    with pytest.raises(ValueError, match="'FULL' is not one of 'SAME'"):
        everything("FULL", stride)
    monkeypatch.setitem(lattice.PADDING_RULES, "FULL", rule)
    named, numbers = everything("full", stride), everything(2, stride)
    assert named["conv"].shape[1] == (14 if stride == 1 else 7)
    for what, value in named.items():
        np.testing.assert_array_equal(value, numbers[what], what)


OPEN = itertools.product([*lattice.PADDING_RULES, "END"], [(3, 1), (3, 2), (2, 3), (1, 2)])
QUICK = {("END", (3, 2)), ("SAME", (2, 3)), ("CAUSAL", (3, 2))}


@pytest.mark.parametrize(
    ("name", "k", "s"),
    [pytest.param(n, *ks, marks=[] if (n, ks) in QUICK else pytest.mark.slow) for n, ks in OPEN],
)
def test_sizes_left_open_are_padded_by_the_rule(name, k, s, monkeypatch):
    """The rules of the table, and one that pads the end alone and depends on the size: nothing else knows of it."""
    pytest.importorskip("flatbuffers")
    end = lattice.PaddingRule(lambda *sizes: (0, sum(lattice.PADDING_RULES["SAME"].pads(*sizes))), covers=True)
    monkeypatch.setitem(lattice.PADDING_RULES, "END", end)
    settings = {"stride": s, "padding": name}

    def both(x):
        y, pull = jax.vjp(lambda x: jc.conv(x, W[:k], **settings), x)
        return y, pull(y)[0], jc.max_pool(x, (k,), **settings), jc.avg_pool(x, (k,), **settings)

    exported = jax.export.export(jax.jit(both))(
        jax.ShapeDtypeStruct(
            jax.export.symbolic_shape("b, n, 2", constraints=[f"n >= {k}"] * (name == "VALID")), jnp.float32
        )
    )
    for n in (7, 8):
        for got, want in zip(exported.call(X[:, :n]), both(X[:, :n]), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("what", ["pad 1", "pairs", "stride"])
def test_settings_may_be_arrays(what):
    """NumPy's and jax's, of one number per axis or of pairs, wherever a tuple may be."""
    for make in (np.array, jnp.array):
        given = {
            "pad 1": ({"padding": make([1]), "stride": 1}, {"padding": (1,), "stride": 1}),
            "pairs": ({"padding": make([[0, 2]]), "stride": (1,)}, {"padding": ((0, 2),), "stride": (1,)}),
            "stride": ({"padding": 0, "stride": make([2])}, {"padding": 0, "stride": (2,)}),
        }[what]
        got, want = (everything(**settings) for settings in given)
        for name, value in got.items():
            np.testing.assert_array_equal(value, want[name], name)


def test_sizes_may_be_arrays():
    y = jc.conv(X, W, stride=2)
    assert jc.conv_transpose(y, W, stride=2, output_size=np.array([12])).shape == X.shape
    assert jc.conv_transpose(y, W, stride=2, output_padding=np.array([1])).shape == X.shape
    assert jc.conv_kernel(X, y, np.array([3]), stride=2).shape == W.shape
    assert jc.ConvGeometry.resolve(input_size=np.array([5, 6]), kernel_size=np.array([3, 2])).output_size == (3, 5)
    pooled, indices = jc.max_pool(X, np.array([2]), dilation=np.array([1]), return_indices=True)
    assert jc.max_unpool(pooled, indices, np.array([12])).shape == X.shape
    assert jc.resize(X, size=np.array([7])).shape == jc.resize(X, scale=np.array([0.6])).shape == (1, 7, 2)
    assert jc.nn.Conv(2, 2, np.array([3]), rngs=nnx.Rngs(0))(jnp.asarray(X)).shape == (1, 10, 2)
    with pytest.raises(TypeError, match="padding"):
        jc.conv(X, W, padding=np.array([0.5]))
    with pytest.raises(ValueError, match="number of spatial axes"):
        jc.unfold(X, (3,), padding=np.array([1, 1]))


@pytest.mark.parametrize("padding", [-1, ((-2, 1),), ((1, -3),)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_unfold_crops_as_conv_does(padding, stride):
    """Negative padding, in values and in the derivative; fold is the adjoint there, too."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 2)), jnp.float32)
    settings = {"padding": padding, "stride": stride}
    cols = jc.unfold(x, 3, **settings)
    np.testing.assert_allclose(cols @ W.reshape(-1, 2), jc.conv(x, W, **settings), rtol=1e-5)
    back = jc.fold(jnp.cos(cols), 9, 3, **settings)
    np.testing.assert_allclose(back, jax.vjp(lambda x: jc.unfold(x, 3, **settings), x)[1](jnp.cos(cols))[0], rtol=1e-5)
    for pool in (jc.max_pool, jc.avg_pool):  # what a cropped window would mean for its indices nobody defines
        with pytest.raises(ValueError, match="must be at least 0"):
            pool(x, 3, **settings)


def test_lowerings_accelerate_and_the_analysis_have_no_lattice_of_their_own(monkeypatch):
    """A record with another origin moves what they compute: the offset's convention stands in one place."""
    from jaxconv.analysis.graph.links import window
    from jaxconv.analysis.upsampling.probe import relations

    g = jc.ConvGeometry.resolve(input_size=(7,), kernel_size=(3,), stride=2, padding=1)
    eqn = jax.make_jaxpr(lambda x: jc.conv(x, W, stride=2, padding=1))(jnp.ones((1, 7, 2))).eqns[-1]
    assert relations(eqn) == g.axes
    boxes, index = list(taps.boxes(g)), window(g.axes[0]).index
    plain, box = Relation.reads, Relation.box
    monkeypatch.setattr(Relation, "reads", lambda self: plain(self) + 1)
    monkeypatch.setattr(Relation, "box", lambda self, tap: box(self, (tap + 1) % self.taps))
    window.cache_clear()
    assert (window(g.axes[0]).index != index).any()
    assert list(taps.boxes(g)) != boxes
    monkeypatch.undo()
    window.cache_clear()
