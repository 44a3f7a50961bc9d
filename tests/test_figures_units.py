"""The pictures of units show the arrays that they were made from: scale, cut, titles, patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.analysis import receptive_field, strongest_patches, visualise

pytest.importorskip("matplotlib")

from jaxconv import figures  # noqa: E402

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))


def net(x):
    return jax.nn.relu(jc.conv(x, KERNEL, stride=2, padding=1))


IMAGES = jax.random.uniform(jax.random.key(1), (2, 20, 16, 3))


def test_projections_beside_their_image():
    unit = visualise(net, IMAGES[1:, 4:-4, 4:-4], channel=2).unit[0]  # away from the borders
    unit = (1, unit[1] + 2, unit[2] + 2, 2)
    seen = [visualise(net, IMAGES, unit=unit, method=m) for m in ("exact", "guided")]
    box = receptive_field(net, IMAGES).box(unit[1:3])
    figure = figures.visualisation(seen, number=1, box=box, margin=2)
    figure.canvas.draw()
    first, *others = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), np.asarray(IMAGES[1], np.float64))
    assert first.patches[0].get_xy() == (box[1].start - 0.5, box[0].start - 0.5) and first.patches[0].get_width() == 3
    cut = np.asarray(seen[0].image)[(1, *(slice(s.start - 2, s.stop + 2) for s in box))]
    for ax in others:
        shown = np.asarray(ax.images[0].get_array())
        assert shown.shape == (7, 7, 3)
        inside = np.abs(cut) < np.abs(cut).max() / 2
        ratio = (shown[inside] - 0.5)[cut[inside] != 0] / cut[inside][cut[inside] != 0]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)  # zero is grey, and one scale for all
        assert (shown[cut == 0] == 0.5).all()
    assert others[0].get_title() == "exact adjoint\nderivative at 1 ReLU"
    assert others[1].get_title() == "guided backpropagation\nrule at 1 ReLU"
    assert figures.visualisation({"mine": seen[0]}).axes[1].get_title().startswith("mine")


def test_patches_and_their_projections():
    found = strongest_patches(net, IMAGES, channel=1, per_image=2, count=3)
    seen = [visualise(net, IMAGES, unit=p.unit) for p in found]
    figure = figures.patches(found, seen, columns=2)
    assert len(figure.axes) == 6
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), found[0].pixels)
    assert figure.axes[0].get_title() == f"{found[0].value:.3g}"
    shapes = [ax.images[0].get_array().shape for ax in figure.axes]
    assert sorted(shapes) == sorted(p.pixels.shape for p in found for _ in range(2))


def test_bad_input_is_named():
    seen = visualise(net, IMAGES, channel=0)
    with pytest.raises(ValueError, match="number=2 is outside of the batch of 2"):
        figures.visualisation(seen, number=2)
    with pytest.raises(ValueError, match="same image"):
        figures.visualisation([seen, visualise(net, IMAGES + 1, channel=0)])
    with pytest.raises(ValueError, match=r"got shape \(2, 8, 3\)"):
        figures.visualisation(visualise(jnp.abs, jnp.ones((2, 8, 3)), channel=0, method="exact"))
    with pytest.raises(ValueError, match="no patches"):
        figures.patches([])
    with pytest.raises(ValueError, match="1 patches and 2 projections"):
        figures.patches(strongest_patches(net, IMAGES, channel=0, count=1), [seen, seen])
