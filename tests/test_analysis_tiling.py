"""Tiled inference against the whole image: three networks, odd sizes, memory maps, and what must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import TilingRefused, tiled


def kernel(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape) * 0.2, jnp.float32)


KERNELS = [kernel(i, 3, 3, c, o) for i, (c, o) in enumerate(((3, 6), (6, 6), (6, 6), (12, 6), (12, 4), (6, 12)))]


def conv(x, w, stride=1, rate=1):
    return lax.conv_general_dilated(x, w, (stride,) * 2, "SAME", (1, 1), (rate,) * 2, ("NHWC", "HWIO", "NHWC"))


def unet(x):
    a = jax.nn.relu(conv(x, KERNELS[0]))
    b = lax.reduce_window(a, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    c = conv(conv(b, KERNELS[1], stride=2), KERNELS[2], rate=2)
    up = jax.image.resize(c, (1, 2 * c.shape[1], 2 * c.shape[2], 6), "linear")[:, : b.shape[1], : b.shape[2]]
    d = conv(jnp.concatenate([up, b], axis=-1), KERNELS[3])
    up = jnp.repeat(jnp.repeat(d, 2, axis=1), 2, axis=2)[:, : a.shape[1], : a.shape[2]]
    return conv(jnp.concatenate([up, a], axis=-1), KERNELS[4])


def encoder(x):
    return conv(jax.nn.relu(conv(x, KERNELS[0], stride=2)), KERNELS[1], stride=2)


def upscaler(x):
    h = conv(jax.nn.relu(conv(x, KERNELS[0])), KERNELS[5])
    n, height, width, _ = h.shape
    h = h.reshape(n, height, width, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(n, 2 * height, 2 * width, 3)


@pytest.mark.parametrize("fn", [unet, encoder, upscaler], ids=lambda f: f.__name__)
def test_equals_the_whole_image(fn):
    image = np.random.default_rng(1).standard_normal((1, 83, 131, 3)).astype(np.float32)
    cut = tiled(fn, 24)
    expected = np.asarray(jax.jit(fn)(image))
    assert sum(len(p.starts()) for p in cut.plan(image)[0]) > 3, "the image was not cut"
    result = cut(image)
    assert result.shape == expected.shape and result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, atol=2e-5, rtol=0)


def test_labels_through_memory_maps(tmp_path):
    def labels(image):
        return jnp.argmax(unet(image.astype(jnp.float32) / 255), axis=-1).astype(jnp.uint8)

    source = np.memmap(tmp_path / "in.raw", np.uint8, "w+", shape=(1, 90, 131, 3))
    source[:] = np.random.default_rng(2).integers(0, 256, source.shape)
    target = np.memmap(tmp_path / "out.raw", np.uint8, "w+", shape=(1, 90, 131))
    seen = []
    result = tiled(labels, (32, 24), progress=lambda done, total: seen.append((done, total)))(source, out=target)
    assert result is target
    expected = np.asarray(jax.jit(labels)(np.asarray(source)))
    assert (np.asarray(target) != expected).mean() == 0
    assert seen[-1][0] == seen[-1][1] == len(seen) > 1


def test_unpooling_and_its_choices():
    def net(x):
        pooled, where = jc.max_pool(conv(x, KERNELS[0]), 2, return_indices=True)
        return jc.max_unpool(jnp.tanh(pooled), where, x.shape[1:3])

    # Flat indices count through the whole crop: the values that they place are the same in crop and image.
    image = np.random.default_rng(4).standard_normal((1, 82, 70, 3)).astype(np.float32)
    result = tiled(net, 16)(image)
    np.testing.assert_allclose(result, np.asarray(jax.jit(net)(image)), atol=2e-5, rtol=0)


def test_unpooling_by_indices_that_tell_channels_apart():
    def net(x):
        both = jnp.concatenate([x, conv(x, KERNELS[0])], axis=-1)
        _, where = jc.max_pool(both, 2, return_indices=True)
        mixed = conv(jc.avg_pool(both, 2), jnp.ones((3, 3, both.shape[-1], both.shape[-1])))
        return jc.max_unpool(mixed, where, x.shape[1:3])

    image = np.random.default_rng(5).standard_normal((1, 82, 70, 3)).astype(np.float32)
    np.testing.assert_allclose(tiled(net, 16)(image), np.asarray(jax.jit(net)(image)), atol=1e-4, rtol=1e-5)


def test_a_branch_on_the_whole_image_is_refused():
    with pytest.raises(TilingRefused, match="reduce_sum"):
        net = lambda x: lax.cond(x.sum() > 0, lambda y: conv(y, KERNELS[0]), lambda y: -conv(y, KERNELS[0]), x)  # noqa: E731
        tiled(net, 16)(np.ones((1, 83, 70, 3), np.float32))


def classes_from_a_pyramid(x):
    y = jc.max_pool(jax.nn.relu(jc.conv(x, KERNELS[0], stride=2, padding=1)), 3, stride=2, padding=1)
    y = jnp.concatenate([jc.conv(y, KERNELS[1], padding=r, dilation=r) for r in (1, 3)], -1)
    y = jc.conv(y, KERNELS[4], padding=1)
    return jnp.repeat(jnp.repeat(y, 4, 1), 4, 2)[:, : x.shape[1], : x.shape[2]]


def mirrored(x):
    y = jc.conv(x, KERNELS[0], padding=1, padding_mode="reflect")
    y = jc.conv(y, KERNELS[1], padding=4, dilation=4, stride=2, padding_mode="replicate")
    return jc.pixel_shuffle(jc.conv(y, KERNELS[5], padding=1), 2)


def hourglass(x):
    y = jax.nn.gelu(jc.conv(x, KERNELS[0], stride=2, padding=1))
    y = jc.conv(y, KERNELS[1], stride=3, padding=1)
    y = jc.conv_transpose(y, KERNELS[1], stride=3, padding=1, output_padding=2)
    y = jc.conv_transpose(y, kernel(9, 4, 4, 3, 6), stride=2, padding=1)
    return y[:, : x.shape[1], : x.shape[2]]


@pytest.mark.parametrize("fn", [classes_from_a_pyramid, mirrored, hourglass], ids=lambda f: f.__name__)
def test_odd_sizes_batches_labels_and_layouts(fn):
    rng = np.random.default_rng(6)

    def labels(x):
        return jnp.argmax(fn(x.astype(jnp.float32) / 255), axis=-1).astype(jnp.uint8)

    def channels_first(x):
        return jnp.moveaxis(fn(jnp.moveaxis(x, 0, -1)[None])[0], -1, 0)

    for job, shape, tile, axes in (
        (fn, (3, 101, 67, 3), (17, 31), None),
        (fn, (1, 14, 130, 3), 33, None),  # one side is shorter than the halo
        (labels, (2, 97, 80, 3), 1, None),
        (channels_first, (3, 83, 92), 20, (1, 2)),
    ):
        image = rng.integers(0, 256, shape).astype(np.uint8) if job is labels else rng.standard_normal(shape)
        image = image if job is labels else image.astype(np.float32)
        run = tiled(job, tile, spatial_axes=axes)
        result, expected = run(image), np.asarray(jax.jit(job)(image))
        assert result.shape == expected.shape and result.dtype == expected.dtype
        assert max(len(p.starts()) for p in run.plan(image)[0]) > 1, f"{job.__name__} {shape} was not cut"
        if job is labels:
            assert (result != expected).mean() < 1e-3
        else:
            np.testing.assert_allclose(result, expected, atol=3e-5, rtol=0, err_msg=f"{job.__name__} {shape}")


def test_several_outputs_and_one_axis():
    image = np.random.default_rng(7).standard_normal((1, 60, 130, 3)).astype(np.float32)
    with pytest.raises(TilingRefused, match="has 2 outputs; tile a function of each"):
        tiled(lambda x: {"a": encoder(x), "b": x}, 16)(image)
    along = tiled(classes_from_a_pyramid, 24, spatial_axes=(2,))
    np.testing.assert_allclose(along(image), np.asarray(jax.jit(classes_from_a_pyramid)(image)), atol=2e-5, rtol=0)


def test_what_the_result_does_not_need_is_not_looked_at():
    @jax.jit
    def two_heads(x):
        return conv(x, KERNELS[0]), jax.image.resize(conv(x, KERNELS[0], stride=3), (1, 77, 50, 6), "linear")

    image = np.random.default_rng(9).standard_normal((1, 83, 70, 3)).astype(np.float32)
    one = tiled(lambda x: two_heads(x)[0], 16)
    np.testing.assert_allclose(one(image), np.asarray(two_heads(image)[0]), atol=2e-5, rtol=0)


def test_channels_first_and_a_result_without_channels():
    def labels(image):
        return jnp.argmax(jnp.moveaxis(encoder(jnp.moveaxis(image, 0, -1)[None])[0], -1, 0), axis=0)

    image = np.random.default_rng(3).standard_normal((3, 83, 70)).astype(np.float32)
    result = tiled(labels, 16, spatial_axes=(1, 2))(image)
    expected = np.asarray(jax.jit(labels)(image))
    assert result.shape == (21, 18) and (result != expected).mean() < 0.01


def test_small_images_are_not_cut():
    image = np.ones((1, 12, 9, 3), np.float32)
    np.testing.assert_array_equal(tiled(encoder, 64)(image), np.asarray(jax.jit(encoder)(image)))


def resized(to, **how):
    """A network that resizes its second axis to a size that follows from its own."""
    return lambda x: jax.image.resize(conv(x, KERNELS[0]), (1, to(x.shape[1]), x.shape[2], 6), "linear", **how)


def line(n):
    return np.random.default_rng(8).standard_normal((1, n, 8, 3)).astype(np.float32)


def test_resize_by_a_ratio_that_no_crop_shares_is_refused():
    halves = resized(lambda n: 3 * n // 2)
    for n in (101, 301, 12001):
        image = jax.ShapeDtypeStruct((1, n, 8, 3), jnp.float32)
        message = rf"axis 1 of {n} pixels .* resize of {n} to {3 * n // 2} positions .* Pad the axis to {n + 1} pixels"
        with pytest.raises(TilingRefused, match=message):
            tiled(halves, 32).plan(image)
    back = lambda x: jax.image.resize(conv(x, KERNELS[0], stride=2), (1, *x.shape[1:3], 6), "linear")  # noqa: E731
    with pytest.raises(TilingRefused, match=r"resize of 65 to 129 positions .* Pad the axis to 130 pixels"):
        tiled(back, 32)(line(129))
    through = lambda x: jax.image.resize(resized(lambda n: 64)(x), (1, *x.shape[1:3], 6), "linear")  # noqa: E731
    with pytest.raises(TilingRefused, match="resize of 300 to 64 positions"):
        tiled(through, 32, verify=False)(line(300))


def test_resizes_with_a_period_are_cut_at_it():
    for net, n, align in (
        (resized(lambda n: 3 * n // 2), 302, 2),
        (resized(lambda n: 149 * n // 100), 900, 100),  # 256 -> 381 has another ratio
        (lambda x: jc.resize(conv(x, KERNELS[0]), scale=(1.5, 1)), 301, 2),
        (lambda x: jc.resize(conv(x, KERNELS[0]), scale=(0.7, 1), method="cubic"), 301, 10),
    ):
        image = line(n)
        run = tiled(net, 32)
        (plan, _), *_ = run.plan(image)
        assert plan.align == align and plan.crop < n
        # jax.image.resize places its samples in float32, which 900 positions in is good to three digits.
        np.testing.assert_allclose(run(image), np.asarray(jax.jit(net)(image)), atol=1e-3, rtol=0)


def test_crops_that_would_grow_with_the_image_are_refused():
    for net in (
        lambda x: conv(x, KERNELS[0])[:, ::-1],
        lambda x: conv(jc.conv(x, KERNELS[0], padding=1, padding_mode="circular"), KERNELS[1]),  # zeros at one layer
        lambda x: around(x[:, :89]),  # what goes around is not the image
    ):
        with pytest.raises(TilingRefused, match="axis 1 of 90 pixels .* grows with the image"):
            tiled(net, 32)(line(90))
    both_ways = lambda x: conv(x, KERNELS[0]) + conv(x[:, ::-1], KERNELS[0])[:, ::-1]  # noqa: E731
    (plan, _), *_ = tiled(both_ways, 32).plan(line(90))
    assert plan.crop < 90
    # As long as it has to be: any longer image is cut into crops of about this length.
    wide = lambda x: jc.conv(x, KERNELS[0], padding=40, dilation=40, padding_mode="reflect")  # noqa: E731
    for n, whole in ((90, True), (150, False)):
        (plan,), *_ = tiled(wide, 32, spatial_axes=(1,)).plan(jax.ShapeDtypeStruct((1, n, 60, 3), jnp.float32))
        assert (plan.crop == n) == whole


def around(x, stride=1):
    y = jax.nn.relu(jc.conv(x, KERNELS[0], stride=stride, padding=2, dilation=2, padding_mode="circular"))
    y = jc.conv(y, KERNELS[4][:, :, :6], padding=1, padding_mode="circular")
    return jnp.repeat(jnp.repeat(y, stride, 1), stride, 2)


def test_circular_borders_are_cut_around_the_image():
    rng = np.random.default_rng(10)
    mixed = lambda x: conv(jc.conv(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="wrap"), KERNELS[0]), KERNELS[1])  # noqa: E731
    norm = lambda x: around(x) - around(x).mean((1, 2), keepdims=True)  # noqa: E731
    for net, shape, going, how in (
        (around, (1, 83, 60, 3), (True, True), {"verify": False}),
        (lambda x: around(x, 2), (2, 84, 98, 3), (True, True), {}),
        (norm, (1, 83, 70, 3), (True, True), {"statistics": True}),
        (lambda x: x + jnp.roll(x, 5, axis=1), (1, 90, 60, 3), (True, False), {}),
    ):
        image = rng.standard_normal(shape).astype(np.float32)
        run = tiled(net, 24, **how)
        assert tuple(p.circular for p in run.plan(image)[0]) == going
        np.testing.assert_allclose(run(image), np.asarray(jax.jit(net)(image)), atol=3e-6, rtol=0)
    with pytest.raises(TilingRefused, match="circular borders that only some layers have or whose size strides"):
        tiled(lambda x: around(x, 2), 24)(rng.standard_normal((1, 83, 98, 3)).astype(np.float32))
    with pytest.raises(TilingRefused, match="circular borders that only some layers have"):
        tiled(mixed, 24, verify=False)(rng.standard_normal((1, 83, 98, 3)).astype(np.float32))


def padded_to(multiple, mode, centred=False):
    """What wrappers of networks do: pad to a multiple of their stride, or of more, and crop the result."""

    def run(x):
        height, width = x.shape[1:3]
        pads = [(-n % multiple // 2 * centred, -n % multiple - -n % multiple // 2 * centred) for n in (height, width)]
        y = encoder(jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=mode) + 1)
        y = jc.conv(jnp.repeat(jnp.repeat(y, 4, 1), 4, 2), kernel(11, 5, 5, 6, 2), padding=2)
        return y[:, pads[0][0] : pads[0][0] + height, pads[1][0] : pads[1][0] + width]

    return run


def test_images_that_are_padded_to_a_multiple_are_cut_at_it():
    rng = np.random.default_rng(11)
    for net, shape, aligns in (
        (padded_to(32, "reflect"), (1, 203, 160, 3), (32, 32)),
        (padded_to(16, "constant", centred=True), (1, 150, 128, 3), (16, 16)),
        (padded_to(28, "constant"), (1, 203, 168, 3), (28, 28)),
    ):
        image = rng.standard_normal(shape).astype(np.float32)
        run = tiled(net, 16)
        plans = run.plan(image)[0]
        assert tuple(p.align for p in plans) == aligns and any(p.crop < p.size for p in plans)
        np.testing.assert_allclose(run(image), np.asarray(jax.jit(net)(image)), atol=2e-5, rtol=0)


def test_aligned_corners_are_cut_where_a_crop_has_the_same_scale():
    rng = np.random.default_rng(12)
    image = rng.standard_normal((1, 121, 97, 3)).astype(np.float32)
    for size in (lambda n: 2 * n - 1, lambda n: (n + 1) // 2, lambda n: 2 * n):
        net = lambda x, size=size: jc.resize(conv(x, KERNELS[0]), [size(n) for n in x.shape[1:3]], align_corners=True)  # noqa: E731
        run = tiled(net, 24)
        if size(2) == 4:
            with pytest.raises(TilingRefused, match="aligned corners .* n - 1 and m - 1 have a plain ratio"):
                run(image)
            continue
        assert all(p.crop < p.size for p in run.plan(image)[0])
        np.testing.assert_allclose(run(image), np.asarray(jax.jit(net)(image)), atol=3e-6, rtol=0)


def test_what_forbids_tiling_is_named():
    image = np.ones((1, 83, 70, 3), np.float32)
    with pytest.raises(TilingRefused, match="reduce_sum over axes"):
        tiled(lambda x: encoder(x) - encoder(x).mean((1, 2), keepdims=True), 16)(image)
    with pytest.raises(TilingRefused, match="position in the image"):
        tiled(lambda x: encoder(x) * jnp.arange(-(-x.shape[1] // 4))[None, :, None, None], 16)(image)
    with pytest.raises(TilingRefused, match="sort"):
        tiled(lambda x: jnp.sort(x, axis=1), 16)(image)
    with pytest.raises(ValueError, match="out has shape"):
        tiled(encoder, 16)(image, out=np.empty((1, 2, 3, 4), np.float32))
    with pytest.raises(ValueError, match="tile=0"):
        tiled(encoder, 0)(image)
