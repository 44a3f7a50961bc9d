"""Receptive fields: textbook cases, size, stride and offset, global operations, modules, arguments, fallbacks."""

import tracemalloc
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import NotUnderstood, check_rates, gridding, receptive_field
from jaxconv.analysis.upsampling.checkerboard import _counted
from jaxconv.resampling.adaptive import adaptive_avg_pool


def conv(x, k=3, stride=1, rate=1, out=1, pads="SAME"):
    w = jnp.ones((k, k, x.shape[-1], out))
    return lax.conv_general_dilated(x, w, (stride,) * 2, pads, (1, 1), (rate,) * 2, ("NHWC", "HWIO", "NHWC"))


def stack(rates):
    def net(x):
        for rate in rates:
            x = conv(x, rate=rate)
        return x

    return net


IMAGE = jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32)


def test_textbook_schedules():
    holes = receptive_field(stack([2, 2, 2]), IMAGE)
    assert holes.size == (13, 13) and holes.mask((20, 20)).sum() == 49 and holes.coverage == 49 / 169
    full = receptive_field(stack([1, 2, 3]), IMAGE)
    assert full.size == (13, 13) and full.mask((20, 20)).sum() == 169 and full.coverage == 1
    assert receptive_field(stack([1, 1, 1]), IMAGE).size == (7, 7)
    counts = full.counts((20, 20))[14:27, 14:27]
    np.testing.assert_array_equal(counts, check_rates([1, 2, 3]).counts_nd(2))


def test_size_stride_offset_and_borders():
    # VGG-16 before its classifier: the field of 212 pixels at stride 32 (with its last pooling) is in many papers.
    def vgg(x):
        for layers in (2, 2, 3, 3, 3):
            for _ in range(layers):
                x = conv(x)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x

    field = receptive_field(vgg, jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32))
    assert field.size == (212, 212) and field.stride == (32, 32) and field.offset == (-90, -90)
    field = receptive_field(lambda x: conv(conv(x, stride=2, pads=[(1, 1)] * 2)), IMAGE)
    assert (field.size, field.stride, field.offset) == ((7, 7), (2, 2), (-3, -3))
    assert field.box((0, 0)) == (slice(0, 4), slice(0, 4)) and field.box((5, 19)) == (slice(7, 14), slice(35, 40))
    assert field.center == (0.0, 0.0)
    small = receptive_field(stack([1, 1, 1]), jax.ShapeDtypeStruct((1, 3, 3, 1), jnp.float32))
    assert small.size == (7, 7) and small.box((1, 1)) == (slice(0, 3), slice(0, 3))


def test_upsampling_has_a_fractional_stride():
    w = jnp.ones((4, 4, 3, 3))
    field = receptive_field(lambda x: jc.conv_transpose(x, w, stride=2, padding=1), IMAGE)
    assert field.stride == (Fraction(1, 2),) * 2 and field.size == (2, 2)
    assert field.box((6, 7)) == (slice(2, 4), slice(3, 5))


def test_usage_is_the_sum_of_all_counts():
    field = receptive_field(lambda x: conv(conv(x, stride=2), rate=2), jax.ShapeDtypeStruct((1, 9, 8, 1), jnp.float32))
    total = sum(field.counts((i, j)) for i in range(field.output_size[0]) for j in range(field.output_size[1]))
    np.testing.assert_array_equal(field.usage(), total)


def test_unpooling_follows_its_pooling():
    def net(x):
        y, where = jc.max_pool(conv(x), 2, return_indices=True)
        return conv(jc.max_unpool(y, where, (12, 12)))

    field = receptive_field(net, jnp.zeros((1, 12, 12, 2)))
    assert field.box((5, 5)) == (slice(3, 9), slice(3, 9)) and field.size == (6, 6)


def test_global_operations_are_named_and_kept_apart():
    def net(x):
        with jax.named_scope("gate"):
            gate = jax.nn.sigmoid(x.mean((1, 2), keepdims=True))
        return conv(x * gate)

    field = receptive_field(net, IMAGE)
    assert field.size == (3, 3) and "gate" in field.global_ops[0].place and len(field.global_ops) == 1
    assert "reduce_sum" in field.notes[0]
    assert field.mask((9, 9)).sum() == 9 and field.mask((9, 9), through_global=True).all()

    def attention(x):
        tokens = x.reshape(1, -1, 3)
        weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", tokens, tokens), axis=-1)
        return conv(x) + jnp.einsum("bqk,bkc->bqc", weights, tokens).reshape(x.shape)

    field = receptive_field(attention, jax.ShapeDtypeStruct((1, 6, 7, 3), jnp.float32))
    assert field.mask((3, 3)).sum() == 9 and any(op.primitive == "dot_general" for op in field.global_ops)


def test_norms_over_channels_and_constants_change_nothing():
    def net(x):
        y = conv(x, out=4)
        y = (y - y.mean(-1, keepdims=True)) / y.std(-1, keepdims=True)
        y = y + jax.random.normal(jax.random.key(0), y.shape)
        return jnp.where(y > 0, y, jnp.expm1(y)) * jax.nn.softmax(y, axis=-1)

    assert receptive_field(net, IMAGE).counts((9, 9)).sum() == 9


def test_what_is_not_understood_is_named_and_measured():
    def warp(x):
        where = (jnp.arange(40)[:, None] + jnp.arange(40)) % 40  # rows and columns indexed together
        return conv(x)[:, where, jnp.arange(40)]

    with pytest.raises(NotUnderstood, match="gather"):
        receptive_field(warp, IMAGE, method="jaxpr")
    measured = receptive_field(warp, IMAGE)
    assert measured.method == "gradient" and "gather" in measured.notes[0]
    expected = np.zeros((40, 40), bool)
    expected[19:22, 9:12] = True
    np.testing.assert_array_equal(measured.mask((10, 10)), expected)
    assert measured.box((10, 10)) == (slice(19, 22), slice(9, 12))
    with pytest.raises(ValueError, match="not counts"):
        measured.counts((10, 10))
    with pytest.raises(NotUnderstood, match="depends on the data"):
        receptive_field(lambda x: lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), IMAGE, method="jaxpr")


def test_gradient_judges_the_mask():
    net = stack([2, 3])
    image = jax.ShapeDtypeStruct((1, 20, 20, 2), jnp.float32)
    measured = receptive_field(net, image, method="gradient")
    np.testing.assert_array_equal(measured.mask((3, 10)), receptive_field(net, image).mask((3, 10)))
    assert measured.coverage == receptive_field(net, image).coverage


def test_weights_need_no_numbers_and_axes_can_be_chosen():
    def net(x, w):
        return lax.conv_general_dilated(x, w["k"], (1, 2), "VALID", dimension_numbers=("NCHW", "HWIO", "NCHW"))

    weights = {"k": jax.ShapeDtypeStruct((3, 5, 4, 8), jnp.float32)}
    image = jax.ShapeDtypeStruct((2, 4, 10, 12), jnp.float32)
    field = receptive_field(net, image, weights, spatial_axes=(2, 3))
    assert field.size == (3, 5) and field.stride == (1, 2) and field.offset == (0, 0)
    assert receptive_field(net, image, weights, spatial_axes=(3,)).counts((0,)).tolist() == [1.0] * 5 + [0.0] * 7


def test_control_flow():
    def net(x):
        x, kept = lax.scan(lambda h, w: (conv(h), conv(h)), x, jnp.arange(2))
        x = lax.cond(kept[0].sum() > 0, lambda y: conv(y), lambda y: conv(y, k=5), x) + kept[1]
        return lax.fori_loop(0, 2, lambda i, y: jax.checkpoint(conv)(y), x)

    assert receptive_field(net, jax.ShapeDtypeStruct((1, 24, 24, 1), jnp.float32)).size == (13, 13)


def test_gridding_names_the_layers():
    found = gridding(stack([1, 2, 9]), IMAGE)
    assert [layer.dilation for layer in found.opens] == [(9, 9)] and not found.closes
    assert found.coverage == 441 / 625 and found.output.size == (25, 25)
    found = gridding(stack([2, 2, 1]), IMAGE)
    assert found.layers[0].opens and found.layers[0].period == (2, 2)
    assert [layer.dilation for layer in found.closes] == [(1, 1)] and found.coverage == 1
    assert "opens holes" in found.table()


def test_stacks_and_associative_scans(x64):
    def stacked(x):
        return jnp.stack([conv(x, out=2), conv(x, k=5, out=2)], axis=-1).mean(-1)

    image = jax.ShapeDtypeStruct((1, 12, 12, 2), jnp.float64)
    assert receptive_field(stacked, image, method="jaxpr").counts((6, 6)).sum() == 9 + 25
    field = receptive_field(lambda x: lax.associative_scan(jnp.add, x, axis=1), image, method="jaxpr")
    for row in range(12):
        np.testing.assert_array_equal(field.counts((row, 3))[:, 3], np.arange(12) <= row, err_msg=str(row))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="spatial_axes"):
        receptive_field(conv, jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="not distinct axes"):
        receptive_field(conv, IMAGE, spatial_axes=(1, 7))
    with pytest.raises(ValueError, match="choose one with output="):
        receptive_field(lambda x: (conv(x), conv(x, k=5)), IMAGE)
    assert receptive_field(lambda x: (conv(x), conv(x, k=5)), IMAGE, output=1).size == (5, 5)
    with pytest.raises(ValueError, match="outside"):
        receptive_field(conv, IMAGE).counts((40, 0))
    with pytest.raises(ValueError, match="does not depend"):
        receptive_field(lambda x: jnp.ones(3), IMAGE)
    with pytest.raises(TypeError, match="callable"):
        receptive_field(3, IMAGE)
    with pytest.raises(ValueError, match="method must be"):
        receptive_field(conv, IMAGE, method="magic")


def test_derivatives_maps_and_tiles():
    image = jax.ShapeDtypeStruct((2, 12, 12, 2), jnp.float32)
    for pool in (lambda x: jc.max_pool(x, 2), lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *WINDOW)):
        field = receptive_field(lambda x, pool=pool: jax.vjp(pool, x)[1](conv(x, stride=2, out=2))[0], image)
        # The cotangent's paths and, inside the library's own gradient, the comparisons that choose among taps.
        assert field.method == "jaxpr" and field.mask((5, 5))[4:7, 4:7].all() and field.size[0] <= 7
    field = receptive_field(lambda x: jax.vjp(conv, x)[1](conv(x))[0], image)
    assert field.size == (5, 5) and field.counts((6, 6)).sum() == 81
    assert receptive_field(lambda x: lax.map(lambda row: conv(row[None])[0], x), image).counts((6, 6)).sum() == 9
    field = receptive_field(lambda x: jnp.tile(conv(x), (1, 2, 1, 1)), image)
    assert field.output_size == (24, 12) and field.box((18, 6)) == (slice(5, 8), slice(5, 8))


WINDOW = ((1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def test_a_pooling_is_read_axis_by_axis_and_the_mean_of_the_image_is_no_window():
    large = jax.ShapeDtypeStruct((1, 4096, 4096, 1), jnp.float32)
    tracemalloc.start()
    field = receptive_field(lambda x: jc.max_pool(x, 3, stride=2, padding=1), large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert field.size == (3, 3) and field.stride == (2, 2)
    assert peak < 4096 * 4096  # bytes: no array of the size of the image

    whole = receptive_field(lambda x: x + adaptive_avg_pool(x, (1, 1)), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    assert whole.size == (1, 1) and [op.axes for op in whole.global_ops] == [(1, 2)]


UPSAMPLINGS = {
    "nearest": lambda x: jc.resize(x, scale=4, method="nearest"),
    "linear": lambda x: jc.resize(x, scale=4),
    "repeat": lambda x: jnp.repeat(jnp.repeat(x, 4, 1), 4, 2),
    "transposed": lambda x: jc.conv_transpose(x, jnp.ones((4, 4, 1, 1)), stride=4),
}


@pytest.mark.parametrize("kind", UPSAMPLINGS)
def test_an_upsampled_branch_beside_a_skip_keeps_its_step(kind):
    def net(x):
        coarse, skip = conv(x, stride=8, pads=[(1, 1)] * 2), conv(x, stride=2, pads=[(1, 1)] * 2)
        merged = conv(jnp.concatenate([UPSAMPLINGS[kind](coarse), skip], axis=-1))
        return jc.conv_transpose(merged, jnp.ones((2, 2, 1, 1)), stride=2)

    found = receptive_field(net, jax.ShapeDtypeStruct((1, 256, 256, 1), jnp.float32))
    box = found.box(found.central_index)
    assert found.stride == (1, 1)
    # No border is near: what is read is the nominal field.
    assert found.size == tuple(b.stop - b.start for b in box)


def test_a_step_after_a_resize_is_that_of_its_positions():
    def net(x):
        return jc.resize(jc.conv(x, jnp.ones((3, 3, 1, 1)), stride=4, padding=1), (64, 64))

    _, resized = gridding(net, jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)).layers
    assert resized.kind == "resize" and resized.output_size == (64, 64) and resized.jump == (1, 1)


def test_a_resize_by_a_given_scale_steps_by_it_at_every_size():
    for n in (64, 65, 101):
        field = receptive_field(lambda x: jc.resize(x, scale=1.5), jax.ShapeDtypeStruct((1, n, 1), jnp.float32))
        assert field.stride == (Fraction(2, 3),)


def test_counts_beyond_float64_are_integers_and_ratios_stay():
    """180 convolutions that each read all 64 pixels: 64^180 paths, above the largest float64."""

    def net(x):
        for _ in range(180):
            x = jc.conv(x, jnp.ones((127, 1, 1)) / 64, padding=63)
        return jc.conv_transpose(x, jnp.ones((3, 1, 1)), stride=2)

    image = jax.ShapeDtypeStruct((1, 64, 1), jnp.float32)
    field = jc.analysis.receptive_field(net, image)
    counts = field.counts(63)  # an odd output: one tap
    assert counts.dtype == object and all(c == 64**179 for c in counts)
    assert field.mask(63).all() and field.coverage == 1
    totals, usage = field.totals()[1:-1], field.usage()
    assert np.isfinite(totals).all() and np.isfinite(usage).all()
    assert totals[1] / totals[0] == pytest.approx(2) and usage.max() == usage.min() > 0
    assert _counted(field.traced, (2,), (1,))[0] == pytest.approx((2 - 1) / 1.5)


def test_outputs_that_are_not_finite_have_no_pattern():
    board = jc.analysis.checkerboard(
        lambda x: jc.conv_transpose(x, jnp.ones((3, 1, 1)), stride=2) * jnp.inf,
        jax.ShapeDtypeStruct((1, 16, 1), jnp.float32), fixes=False, draws=1,
    )  # fmt: skip
    assert np.isnan(board.score) and any("not finite" in note for note in board.notes)


def test_what_only_the_whole_image_leads_to_has_an_effective_field_without_a_box():
    found = jc.analysis.effective_receptive_field(lambda x: jnp.sin(x).mean(1), jnp.zeros((1, 16, 2)), draws=2)
    assert found.box is None and found.ratio is None and found.area() > 8


@pytest.mark.parametrize(
    "net, size",
    [
        (lambda x: jc.resize(x, (40,)), 5),  # shifted copies, half of whose weights are zero
        (lambda x: jc.resize(x, (24,), method="cubic"), 6),
        (lambda x: jc.resize(x, (10,), method="cubic", antialias=True), 7),
        (lambda x: jc.resize(x, (4,), method="area"), 9),  # rows of unequal length, filled up with zeros
        (lambda x: jc.resize(x, (3,), method="area"), 300),  # wider than what is read tap by tap
        (lambda x: jc.avg_pool(x, 90, stride=1), 120),
    ],
    ids=["linear x8", "cubic x4", "antialias", "area", "wide area", "wide mean"],
)
def test_maps_read_where_their_weights_are_not_zero(net, size):
    derivative = np.asarray(jax.jacobian(net)(jnp.ones((1, size, 3))))[0, :, 0, 0, :, 0]
    field = receptive_field(net, jax.ShapeDtypeStruct((1, size, 3), jnp.float32))
    counts = np.stack([np.ravel(field.counts(q)) for q in range(len(derivative))])
    np.testing.assert_array_equal(counts, (np.abs(derivative) > 1e-7).astype(int))


def test_the_derivative_of_a_resize_is_read():
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    gradient = jax.grad(lambda x: (jc.resize(x, scale=2) ** 2).sum())
    found, judge = receptive_field(gradient, image), receptive_field(gradient, image, method="gradient")
    assert found.method == "jaxpr" and found.stride == (1, 1)
    np.testing.assert_array_equal(found.mask((16, 16)), judge.mask((16, 16)))


def test_an_upsampled_square_is_seen_as_a_square():
    field = receptive_field(lambda x: jc.resize(x, (128, 128)), jax.ShapeDtypeStruct((1, 16, 16, 12), jnp.float32))
    assert field.size == (2, 2)
