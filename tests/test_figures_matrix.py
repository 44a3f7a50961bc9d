"""The figures show what they claim: colours by tap, the recipe's numbers, every frame's sum, the stated norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb  # noqa: E402

from jaxconv import figures  # noqa: E402


def operator(kernel=(3, 3, 1, 1), size=(4, 4), **params):
    count = int(np.prod(kernel))
    return jc.ConvOperator(np.arange(1.0, count + 1, dtype=np.float32).reshape(kernel), size, **params)


def texts_of(ax):
    return [t.get_text() for t in ax.texts]


def test_matrix_pair_colours_every_entry_by_its_tap():
    a = operator(stride=2, padding=1)
    figure = figures.matrix_pair(a, show_values=True)
    figure.canvas.draw()
    key, left, right = figure.axes
    matrix = np.asarray(a.as_matrix())
    colours = {float(t.get_text()): to_rgb(p.get_facecolor()) for t, p in zip(key.texts, key.patches, strict=True)}
    for ax, values in ((left, matrix), (right, matrix.T)):
        image = ax.images[0].get_array()
        assert image.shape[:2] == values.shape
        for place, value in np.ndenumerate(values):
            want = (1, 1, 1) if value == 0 else colours[value]
            np.testing.assert_allclose(image[place], want, atol=1e-6, err_msg=str(place))
    with pytest.raises(ValueError, match="4096 x 4096"):
        figures.matrix_pair(operator(size=(64, 64), padding=1))


def test_fan_draws_one_line_per_connection():
    a = operator(kernel=(3, 1, 1), size=9, stride=2, padding=1)
    figure = figures.fan(a, output=0)
    arrows = [t for t in figure.axes[0].texts if getattr(t, "arrow_patch", None) is not None]
    assert len(arrows) == np.count_nonzero(a.as_matrix())
    assert "y[0] reads 2 elements" in figure.axes[0].get_title()
    with pytest.raises(ValueError, match=r"output=9 must be in 0\.\.4"):
        figures.fan(a, output=9)


def test_recipe_figure_holds_the_numbers_of_the_operation():
    y, w = np.arange(1.0, 5.0).reshape(2, 2), np.arange(1.0, 10.0).reshape(3, 3)
    params = {"stride": 2, "padding": 1, "output_padding": 1}
    figure = figures.transpose_recipe(y, w, **params)
    want = jc.conv_transpose(y[..., None].astype("f"), w[..., None, None].astype("f"), **params)
    assert texts_of(figure.axes[4]) == [f"{v:.0f}" for v in np.ravel(want)]
    assert texts_of(figure.axes[3]) == [f"{v:.0f}" for v in w[::-1, ::-1].ravel()]
    assert len(figure.axes[2].texts) == 36
    sentence = figure.get_supxlabel()
    left, right = sentence.removeprefix("outlined:").split("=")
    assert sum(float(a) * float(b) for a, b in (term.split("·") for term in left.split("+"))) == float(right)
    with pytest.raises(ValueError, match="one channel of rank 1 or 2"):
        figures.transpose_recipe(np.ones((2, 2, 2)), np.ones((2, 2, 1, 2)))


ANIMATED = [
    operator(size=(5, 6), stride=(2, 1), padding=((1, 2), (2, -1)), dilation=(1, 2), padding_mode="reflect"),
    operator(size=(6, 8), stride=2, padding=((1, 1), (4, 0))).T,
    operator(kernel=(3, 1, 1), size=9, stride=3, padding=1, dilation=2).T,
    operator(kernel=(3, 1, 1), size=5, padding=1, padding_mode="circular"),
]


@pytest.mark.parametrize("a", ANIMATED, ids=["strided", "transposed", "dilated transpose", "circular"])
def test_every_frame_writes_the_sum_that_the_matrix_holds(a):
    from jaxconv.figures.animation import _scene

    scene = _scene(a)
    base = getattr(a, "operator", a)
    w, matrix = np.asarray(base.w)[..., 0, 0], np.asarray(a.as_matrix())
    in_size, out_size = a.in_shape[:-1], a.out_shape[:-1]
    assert scene.result[-len(out_size) :] == out_size
    for place in np.ndindex(*scene.result):
        row = np.zeros(in_size)
        for cell, tap in scene.taps(place):
            assert scene.colours[cell] is not None  # every cell of the window is on the grid
            if cell in scene.names:
                row[tuple(int(v) for v in scene.names[cell].split(","))] += w[tap[-w.ndim :]]
        at = np.ravel_multi_index(place[-len(out_size) :], out_size)
        np.testing.assert_allclose(row.ravel(), matrix[at], err_msg=f"{a!r} {place}: {scene.formula(place)}")


def test_animation_is_saved_as_a_gif(tmp_path):
    image = pytest.importorskip("PIL.Image")
    figures.animate(ANIMATED[2], tmp_path / "a.gif", max_frames=3)
    with image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3
    with pytest.raises(TypeError, match="takes a ConvOperator or the transpose of one"):
        figures.animate(ANIMATED[2] @ ANIMATED[2].T)


@pytest.mark.slow
def test_spectrum_and_convergence_state_the_true_norm():
    rng = np.random.default_rng(1)
    a = jc.ConvOperator(rng.standard_normal((3, 2, 2)).astype("f"), 8, padding=1, padding_mode="circular")
    true = np.linalg.norm(np.asarray(a.as_matrix()), 2)
    ax = figures.spectrum_plot({"layer": a}).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata()[0], true, rtol=1e-5)
    left, _ = figures.norm_convergence(a, steps=200).axes
    np.testing.assert_allclose(left.lines[0].get_ydata()[-1], true, rtol=1e-3)
    assert abs(left.lines[1].get_ydata()[-1] / true - 1) > 0.05


def test_deconvolution_figure_writes_the_psnr():
    from jaxconv.figures.inverse import psnr

    a = operator(kernel=(3, 3, 1, 1), size=(8, 8), padding=1)
    x = np.random.default_rng(0).random((8, 8, 1)).astype("f")
    figure = figures.deconvolution(a, x, a @ x, {"exact": x, "off by 0.1": np.clip(x, 0, 0.9) + 0.1})
    titles = [ax.get_title() for ax in figure.axes]
    assert "inf dB" in titles[3] and f"{psnr(x, np.clip(x, 0, 0.9) + 0.1):.1f} dB" in titles[4]
    assert psnr(np.zeros(4), np.full(4, 0.1)) == pytest.approx(20)


def test_layers_of_networks_are_animated():
    from jaxconv.figures.animation import _scene
    from jaxconv.figures.from_network import layer_operator

    def net(x):
        x = jc.conv(x, jnp.ones((3, 2, 1, 4)), stride=2, padding=((1, 0), (0, 1)), dilation=(1, 2))
        return jc.conv_transpose(jax.nn.relu(x), jnp.ones((4, 3, 2, 4)), stride=(2, 1), padding=1)

    image = jax.ShapeDtypeStruct((1, 9, 8, 1), jnp.float32)
    first = jc.ConvOperator(jnp.ones((3, 2, 1, 1)), (9, 8), stride=2, padding=((1, 0), (0, 1)), dilation=(1, 2))
    middle = first.geometry.output_size
    last = jc.ConvOperator(jnp.ones((4, 3, 1, 1)), (2 * middle[0], middle[1]), stride=(2, 1), padding=1).T
    for layer, own in ((0, first), (1, last), (-1, last)):
        read = layer_operator(net, (image,), layer)
        np.testing.assert_array_equal(read.as_matrix("dense"), own.as_matrix("dense"))
        assert [_scene(read).formula((1, q)) for q in range(3)] == [_scene(own).formula((1, q)) for q in range(3)]
    assert "<img" in figures.animate(net, args=(image,), layer=1, max_frames=2).to_jshtml()
    with pytest.raises(ValueError, match=r"layer=2: .* 2 convolutions \(0: conv at .*; 1: conv_transpose"):
        figures.animate(net, args=(image,), layer=2)
    with pytest.raises(TypeError, match=r"args=\(image,\)"):
        figures.animate(net)


def test_layers_of_modules_are_animated():
    from jaxconv.figures.animation import _scene
    from jaxconv.figures.from_network import layer_operator

    nnx = pytest.importorskip("flax.nnx")
    linen = pytest.importorskip("flax.linen")
    image = jax.ShapeDtypeStruct((1, 7, 7, 3), jnp.float32)
    module = nnx.eval_shape(lambda: nnx.Conv(3, 4, (3, 3), strides=2, padding="SAME", rngs=nnx.Rngs(0)))
    named = linen.Conv(4, (3, 3), strides=2, padding="SAME")
    weights = jax.eval_shape(named.init, jax.random.key(0), image)
    for net, args in ((module, (image,)), (lambda x, w: named.apply(w, x), (image, weights))):
        assert "kernel (3, 3), stride (2, 2)" in _scene(layer_operator(net, args)).caption
