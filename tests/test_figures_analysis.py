"""The analysis' figures hold its numbers: cells, outlines, bars, legends and titles are read back from the drawing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.patches import Ellipse, Rectangle  # noqa: E402

from jaxconv import figures  # noqa: E402

IMAGE = jax.ShapeDtypeStruct((1, 24, 20, 1), jnp.float32)


def dilated(x, rates=(2, 2, 2)):
    for rate in rates:
        x = jc.conv(x, jnp.ones((3, 3, 1, 1)), padding="SAME", dilation=rate)
    return x


def generator(x):
    for _ in range(2):
        x = jc.conv_transpose(x, jnp.ones((3, 3, 1, 1)), stride=2, padding=1)
    return x


def cells(ax):
    """The counts of a map, read from its mesh, and those that are written into it."""
    values = np.ma.filled(ax.collections[0].get_array().astype(float), 0.0)
    written = np.zeros(values.shape)
    for text in ax.texts:
        x, y = text.get_position()
        written[int(y), int(x)] = float(text.get_text())
    return values, written


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


@pytest.mark.parametrize(("rates", "used"), [([2, 2, 2], 49), ([1, 2, 3], 169), ([1, 1, 1], 49)])
def test_usage_counts_of_the_textbook_schedules(rates, used):
    (ax,) = figures.usage_counts(rates).axes
    want = jc.analysis.check_rates(rates).counts_nd(2)
    values, written = cells(ax)
    np.testing.assert_array_equal(values, want)
    np.testing.assert_array_equal(written, want)
    assert np.count_nonzero(values) == used
    share = f"{used} of {want.size}" if used < want.size else "all"
    assert ax.get_title() == f"{want.shape[0]}×{want.shape[1]} pixels seen, {share} used"
    hatched = [p for p in ax.patches if p.get_hatch()]
    assert {(p.get_y(), p.get_x()) for p in hatched} == {tuple(map(float, i)) for i in np.argwhere(want == 0)}
    (mark,) = [p for p in ax.patches if not p.get_fill()]
    assert (mark.get_y(), mark.get_x()) == (want.shape[0] // 2, want.shape[1] // 2)


def test_usage_counts_of_a_function_at_the_border_and_in_the_middle():
    field = jc.analysis.receptive_field(dilated, IMAGE)
    for index in ((12, 10), (1, 3)):
        (ax,) = figures.usage_counts(dilated, IMAGE, index=index).axes
        np.testing.assert_array_equal(cells(ax)[0], field.counts(index)[field.box(index)])
        (mark,) = [p for p in ax.patches if not p.get_fill()]
        corner = [s.start for s in field.box(index)]
        assert (mark.get_y() + corner[0], mark.get_x() + corner[1]) == index
    again = figures.usage_counts(field, index=(1, 3)).axes[0]
    np.testing.assert_array_equal(cells(again)[0], cells(ax)[0])
    with pytest.raises(ValueError, match=r"over one or two axes, got counts of shape \(3, 3, 3, 3\)"):
        figures.usage_counts(np.ones((3, 3, 3, 3)))


def test_shades_darken_with_the_count_in_grey():
    from jaxconv.figures.maps import shades

    grey = shades()(np.linspace(0, 1, 50))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) < 0).all() and grey[0] < 0.93


def test_gridding_shows_every_step_of_both_schedules():
    figure = figures.gridding([2, 2, 2], [1, 2, 3])
    assert [t.split("\n")[1] for t in titles(figure)] == [
        "5×5: 9 of 25", "9×9: 25 of 81", "13×13: 49 of 169", "3×3: all 9", "7×7: all 49", "13×13: all 169"
    ]  # fmt: skip
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert labels == ["rates 2, 2, 2\n29% of the field is used", "rates 1, 2, 3\n100% of the field is used"]
    for ax, rates in zip(figure.axes, ([2], [2, 2], [2, 2, 2], [1], [1, 2], [1, 2, 3]), strict=True):
        np.testing.assert_array_equal(cells(ax)[0], jc.analysis.check_rates(rates).counts_nd(2))
    last = figures.gridding([2, 2, 2], jc.analysis.check_rates([1, (1, 2)]), labels=["a", "b"], along=False)
    assert titles(last)[0] == "a\n13×13: 49 of 169" and len(last.axes) == 2


def test_gridding_of_networks_keeps_what_opens_and_closes_holes():
    def net(x):
        return dilated(x, (2, 2, 1, 1, 1))

    found = jc.analysis.gridding(net, IMAGE)
    assert len(found.opens) == 2 and len(found.closes) == 1
    figure = figures.gridding(found, columns=3)
    assert len([t for t in titles(figure) if t]) == 3 and titles(figure)[-1].startswith("output\n")
    np.testing.assert_array_equal(cells(figure.axes[-1])[0], found.output.counts)
    doing = [t for t in titles(figures.gridding(net, args=(IMAGE,), columns=20)) if "holes" in t]
    assert len(doing) == 3
    with pytest.raises(ValueError, match="1 labels for 2 schedules"):
        figures.gridding([1], [2], labels=["a"])
    with pytest.raises(ValueError, match="at least one schedule"):
        figures.gridding()


@pytest.mark.parametrize(("kernel", "stride", "values"), [(3, 2, [1, 2]), (4, 2, [2]), (5, 2, [2, 3]), (4, 3, [1, 2])])
def test_overlap_of_a_layer_is_the_transposed_convolution_of_ones(kernel, stride, values):
    figure = figures.overlap(kernel, stride=stride)
    bars, total, plane = figure.axes
    ones = jc.conv_transpose(jnp.ones((6, 6, 1)), jnp.ones((kernel, kernel, 1, 1)), stride=stride)[..., 0]
    np.testing.assert_array_equal(cells(plane)[0], np.asarray(ones))
    heights = [p.get_height() for p in total.patches]
    np.testing.assert_array_equal(np.outer(heights, heights), np.asarray(ones))
    assert len(bars.patches) == 6 * kernel
    word = "even" if len(values) == 1 else "uneven"
    assert total.get_title().startswith(f"{word}:") and all(str(v) in total.get_title() for v in values)
    products = sorted({a * b for a in values for b in values})
    assert all(str(v) in plane.get_title() for v in products)


def test_overlap_of_a_layer_of_the_checkerboard_report():
    board = jc.analysis.checkerboard(generator, jax.ShapeDtypeStruct((1, 12, 12, 1), jnp.float32), fixes=False)
    figure = figures.overlap(board.worst)
    assert figure.axes[1].get_title().startswith("uneven: 3 is not divisible by 2")
    image = figures.overlap(board).axes[0].images[0].get_array()
    assert abs(image.mean()) < 1e-6 and np.abs(image).max() > 0.1
    assert f"{board.pattern:.2g} beside a spread of {board.spread:.2g}" in figures.overlap(board).axes[0].get_title()
    with pytest.raises(ValueError, match="output of size 0"):
        figures.overlap(2, stride=1, padding=1, inputs=1)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_overlap_of_a_network_is_its_all_ones_output_or_gradient(direction):
    shape = (1, 9, 11, 1)
    ones, pull = jax.vjp(generator, jnp.ones(shape))
    want = ones if direction == "forward" else pull(jnp.ones_like(ones))[0]
    field = jc.analysis.receptive_field(generator, jax.ShapeDtypeStruct(shape, jnp.float32))
    whole = field.totals() if direction == "forward" else field.usage()
    np.testing.assert_array_equal(whole, np.asarray(want)[0, ..., 0])
    figure = figures.overlap(generator, jax.ShapeDtypeStruct(shape, jnp.float32), direction=direction, crop=8)
    sides = [min(8, n // 2) for n in whole.shape]
    corner = [(n - k) // 2 for n, k in zip(whole.shape, sides, strict=True)]
    middle = whole[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]]
    line, plane = figure.axes[:2]
    np.testing.assert_allclose(cells(plane)[0], middle / middle.mean(), rtol=1e-6)
    row = int(line.get_title().split()[-1]) - corner[0]
    np.testing.assert_allclose([p.get_height() for p in line.patches], middle[row] / middle.mean(), rtol=1e-6)
    board = jc.analysis.checkerboard(generator, jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32), fixes=False)
    want = board.counts if direction == "forward" else board.gradient_counts
    title = figures.overlap(
        generator, jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32), direction=direction
    ).get_suptitle()
    assert title.endswith(f"= {want:.2g}" if want else "even away from the borders")
    with pytest.raises(ValueError, match="direction must be 'forward' or 'backward', got 'up'"):
        figures.overlap(field, direction="up")


def boxes(ax):
    return {
        p.get_label().split(":")[0]: (p.get_y(), p.get_y() + p.get_height(), p.get_x(), p.get_x() + p.get_width())
        for p in ax.patches
        if isinstance(p, Rectangle) and p.get_label()[0] != "_"
    }


def test_receptive_field_on_an_image_outlines_mask_box_and_nominal_field():
    picture = np.random.default_rng(0).random((24, 20, 3))
    field = jc.analysis.receptive_field(dilated, IMAGE)
    figure = figures.receptive_field(field, image=picture, index=(1, 10))
    ax = figure.axes[0]
    ground, tint = (np.asarray(i.get_array()) for i in ax.images[:2])
    mask = field.mask((1, 10))
    np.testing.assert_array_equal(tint[..., 3] > 0, mask)
    np.testing.assert_array_equal(ground[mask], picture[mask])
    assert (ground[~mask] >= picture[~mask]).all()
    found = boxes(ax)
    rows, columns = field.box((1, 10))
    assert found["read"] == (rows.start, rows.stop, columns.start, columns.stop)
    assert found["nominal, without borders"] == (1 - 6, 1 + 7, 10 - 6, 10 + 7)
    assert ax.get_title() == f"output (1, 10) reads {mask.sum()} of the {7 * 13} pixels of its 7×13 box"
    (cross,) = ax.lines
    assert (cross.get_ydata()[0], cross.get_xdata()[0]) == (1.5, 10.5)
    small = jc.analysis.receptive_field(dilated, jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32))
    (ax,) = figures.receptive_field(small, image=picture[:6, :6]).axes
    assert ax.get_xlim()[1] < 7  # the nominal 13x13 is out of view, its size is in the legend
    assert "13×13" in [p.get_label() for p in ax.patches][1]
    with pytest.raises(ValueError, match=r"image has shape \(20, 24\), the analysed input has spatial size \(24, 20\)"):
        figures.receptive_field(field, image=picture[..., 0].T)


def test_receptive_field_draws_the_effective_field():
    effective = jc.analysis.effective_receptive_field(dilated, IMAGE, draws=2)
    figure = figures.receptive_field(dilated, IMAGE, effective=effective)
    (ring,) = [p for p in figure.axes[0].patches if isinstance(p, Ellipse)]
    assert ring.get_width() == pytest.approx(4 * effective.radius[1])
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert any(f"95 % in {effective.area()} pixels" in t for t in legend) and len(legend) == 4
    assert len(figures.receptive_field(dilated, IMAGE, effective=True).axes[0].patches) == 3
    with pytest.raises(ValueError, match="pass the function"):
        figures.receptive_field(jc.analysis.receptive_field(dilated, IMAGE), effective=True)


def test_effective_receptive_field_shows_the_energy_and_its_profiles():
    found = jc.analysis.effective_receptive_field(dilated, IMAGE, draws=2)
    figure = figures.effective_receptive_field(found)
    heat = np.asarray(figure.axes[0].images[0].get_array())
    strong = found.energy > found.energy.max() * 1e-4
    np.testing.assert_allclose(heat[strong], found.energy[strong])
    assert f"{found.area()} pixels" in figure.get_suptitle()
    profiles = [ax for ax in figure.axes if ax.get_title().startswith("along")]
    for ax, axis in zip(profiles, (1, 0), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), found.energy.sum(axis=1 - axis))


def test_signals_are_drawn_as_lines():
    def net(x):
        for rate in (1, 2, 4):
            x = jc.conv(x, jnp.ones((2, 1, 1)), padding="CAUSAL", dilation=rate)
        return x

    signal = jax.ShapeDtypeStruct((1, 32, 1), jnp.float32)
    np.testing.assert_array_equal(cells(figures.usage_counts(net, signal).axes[0])[0], np.ones((1, 8)))
    figure = figures.receptive_field(net, signal, image=np.arange(32.0))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["read: 8", "nominal: 8", "under the output"]
    assert len(figures.overlap(net, signal).axes) == 1
    assert "8 positions" in titles(figures.effective_receptive_field(net, signal, draws=1))[0]


def test_gridding_and_overlap_of_volumes_are_drawn_as_planes():
    def net(x):
        for rate in (2, 1):
            x = jc.conv(x, jnp.ones((3, 3, 3, 1, 1)), padding="SAME", dilation=rate)
        return x

    image = jax.ShapeDtypeStruct((1, 14, 18, 22, 1), jnp.float32)
    found = jc.analysis.gridding(net, image)
    figure = figures.gridding(found, [1, 2], labels=["volume", "plane"])
    drawn = [ax for ax in figure.axes if ax.collections]
    assert len(drawn) == 3 * 2 + 2
    assert titles(figure)[0].endswith("5×5×5: 27 of 125\naxis 0 at 2") and titles(figure)[1].startswith("output\n")
    for axis, ax in enumerate(drawn[1:6:2]):
        np.testing.assert_array_equal(cells(ax)[0], found.output.counts.take(3, axis=axis))
    assert len(figures.gridding(found, along=False).axes) == 3

    _, _, *maps = figures.overlap((3, 3, 3), stride=(2, 2, 2)).axes
    ones = jc.conv_transpose(jnp.ones((6, 6, 6, 1)), jnp.ones((3, 3, 3, 1, 1)), stride=2)[..., 0]
    for axis, ax in enumerate(maps):
        np.testing.assert_array_equal(cells(ax)[0], np.asarray(ones).take(6, axis=axis))
    assert figures.overlap((3, 3, 3), stride=(2, 2, 2)).get_suptitle() == (
        "in the volume an output gets 1, 2, 4 or 8 taps"
    )

    up = lambda x: jc.conv_transpose(x, jnp.ones((3, 3, 3, 1, 1)), stride=2, padding=1)  # noqa: E731
    small = jax.ShapeDtypeStruct((1, 8, 8, 8, 1), jnp.float32)
    totals = jc.analysis.receptive_field(up, small).totals()
    line, *planes_, _ = figures.overlap(up, small, crop=4).axes
    middle = totals[5:9, 5:9, 5:9]
    assert len(planes_) == 3 and line.get_title() == "along the row 5, 5"
    np.testing.assert_allclose(cells(planes_[0])[0], middle[1] / middle.mean(), rtol=1e-6)
    board = jc.analysis.checkerboard(up, jax.ShapeDtypeStruct((1, 12, 12, 12, 1), jnp.float32), fixes=False)
    assert len(figures.overlap(board).axes) == 4 and "2×2×2" in figures.overlap(board).get_suptitle()
    even = lambda x: jc.conv(x, jnp.ones((3, 3, 3, 1, 1)), padding=1)  # noqa: E731
    board = jc.analysis.checkerboard(even, jax.ShapeDtypeStruct((1, 12, 12, 12, 1), jnp.float32), fixes=False)
    assert not (board.phases - board.phases.mean((1, 2, 3), keepdims=True)).any()
    assert len(figures.overlap(board).axes) == 4
    with pytest.raises(ValueError, match=r"one, two or three axes, got kernel \(3, 3, 3, 3\)"):
        figures.overlap((3, 3, 3, 3), stride=(2,) * 4)


def test_volumes_are_drawn_as_planes():
    from jaxconv.figures.volumes import planes

    def net(x):
        for rate in (2, (1, 2, 2)):
            x = jc.conv(x, jnp.ones((3, 3, 3, 1, 1)), padding="SAME", dilation=rate)
        return x

    image = jax.ShapeDtypeStruct((1, 14, 18, 22, 1), jnp.float32)
    field = jc.analysis.receptive_field(net, image)
    figure = figures.usage_counts(field)
    counts = field.counts(field.central_index)[field.box(field.central_index)]
    assert figure.get_suptitle() == "7×9×9 voxels seen, 175 of 567 used"
    for ax, (axis, _, plane) in zip(figure.axes, planes(counts, (3, 4, 4)), strict=True):
        assert ax.get_title() == f"axis {axis} at {(3, 4, 4)[axis]} of the field"
        drawn = ax.collections[0].get_array()
        np.testing.assert_array_equal(np.ma.filled(drawn, 0).reshape(plane.shape), plane)
    figure = figures.receptive_field(field)
    assert figure.get_suptitle() == "output (7, 9, 11) reads 175 of the 567 voxels of its 7×9×9 box"
    boxes = [[p.get_bbox().bounds for p in ax.patches] for ax in figure.axes]
    assert boxes[0][0] == (6.5, 4.5, 9.0, 9.0) and boxes[1][0] == (6.5, 3.5, 9.0, 7.0) and boxes[2][0] == boxes[2][1]
    energy = jc.analysis.effective_receptive_field(net, image, draws=1)
    assert len(figures.effective_receptive_field(energy).axes) == 4
    with pytest.raises(ValueError, match="one, two or three axes, this one has 4"):
        four = jax.ShapeDtypeStruct((1, 3, 3, 3, 3, 1), jnp.float32)
        figures.receptive_field(lambda x: x * 2, four)
