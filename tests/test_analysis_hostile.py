"""Masks of unusual graphs against what changes when one pixel at a time is changed; most run with the sweeps."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import NotUnderstood, checkerboard, gridding, receptive_field

N = 12
SHAPE = (1, N, N, 2)


def weights(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape))


def conv(x, k=(3, 3), out=2, stride=(1, 1), rate=(1, 1), pads="SAME", groups=1):
    w = weights(*k, x.shape[-1] // groups, out)
    return lax.conv_general_dilated(
        x, w, stride, pads, (1, 1), rate, ("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def pool(x, start, op, window, stride=(1, 1, 1, 1), pads="SAME", **more):
    return lax.reduce_window(x, start, op, window, stride, pads, **more)


def attention(x):
    tokens = x.reshape(1, -1, x.shape[-1])
    mixed = jax.nn.softmax(tokens @ tokens.transpose(0, 2, 1), -1) @ tokens
    return conv(x) + mixed.reshape(x.shape)


def window_attention(x):
    tokens = x.reshape(1, 3, 4, 3, 4, 2).transpose(0, 1, 3, 2, 4, 5).reshape(9, 16, 2)
    mixed = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", tokens, tokens), -1), tokens)
    return mixed.reshape(1, 3, 3, 4, 4, 2).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def axial_attention(x):
    rows = conv(x)  # read by nothing but the attention
    return jnp.einsum("nhwv,nhvc->nhwc", jax.nn.softmax(jnp.einsum("nhwc,nhvc->nhwv", rows, rows), -1), rows)


def spectral_norm(x):
    kernel = weights(3, 3, 2, 2)
    flat, u = kernel.reshape(-1, 2), jnp.ones(18) / 4
    for _ in range(2):
        v = flat.T @ u
        v /= jnp.linalg.norm(v)
        u = flat @ v
        u /= jnp.linalg.norm(u)
    return jc.conv(x, kernel / (u @ flat @ v), padding=1)


def standardised(x):
    w = weights(3, 3, 2, 2)
    return jc.conv(x, (w - w.mean((0, 1, 2))) / jnp.sqrt(w.var((0, 1, 2)) + 1e-5), padding=1)


def squeeze_excite(x):
    gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ weights(2, 2)) @ weights(2, 2, seed=1))
    return conv(x) * gate[:, None, None, :]


def group_norm(x):
    y = conv(x, out=4).reshape(1, N, N, 2, 2)
    mean, var = (f(y, axis=(1, 2, 4), keepdims=True) for f in (jnp.mean, jnp.var))
    return ((y - mean) / jnp.sqrt(var + 1e-5)).reshape(1, N, N, 4)


def nested_scan(x):
    def outer(h, _):
        h, _ = lax.scan(lambda z, s: (conv(z) * s, None), h, jnp.asarray([1.0, 0.5]))
        return h, h

    y, seen = lax.scan(outer, x, None, length=2)
    return y + seen[0]


def recurrent(x, reverse=False):
    def step(h, row):
        h = jnp.tanh(h * 0.5 + row)
        return h, h

    _, rows = lax.scan(step, jnp.zeros((1, N, 2)), jnp.moveaxis(x, 1, 0), reverse=reverse)
    return jnp.moveaxis(rows, 0, 1)


@jax.custom_vjp
def straight_through(x):
    return conv(x, rate=(2, 2))


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, ct: (ct,))


def map_patches(x):
    parts = x.reshape(3, 4, 3, 4, 2).transpose(0, 2, 1, 3, 4).reshape(9, 4, 4, 2)
    parts = lax.map(lambda p: conv(p[None])[0], parts)
    return parts.reshape(3, 3, 4, 4, 2).transpose(0, 2, 1, 3, 4).reshape(1, N, N, 2)


def space_to_batch(x):
    y = x.reshape(1, 6, 2, 6, 2, 2).transpose(2, 4, 0, 1, 3, 5).reshape(4, 6, 6, 2)
    return conv(y).reshape(2, 2, 1, 6, 6, 2).transpose(2, 3, 0, 4, 1, 5).reshape(1, N, N, 2)


def rows_before(x):
    y = jnp.concatenate([x, conv(x)], -1)
    return jnp.cumsum(y, -1)[..., :1]  # the first channel alone


def patches(x):
    taps = lax.conv_general_dilated_patches(x, (3, 3), (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return taps @ weights(18, 2)


def shifted(x):
    index = jnp.arange(4, dtype=jnp.int32)
    return lax.fori_loop(0, 4, lambda i, a: a.at[:, i].set(a[:, i + 1] * 2), x) + index.sum()


def padded(mode):
    return lambda x: conv(jnp.pad(x, ((0, 0), (2, 1), (1, 3), (0, 0)), mode=mode), pads="VALID")


QUICK = {
    "attention beside a convolution": attention,
    "attention in windows": window_attention,
    "attention along rows": axial_attention,
    "running sum": lambda x: conv(jnp.cumsum(x, 1)),
    "running sum from the end": lambda x: lax.cumsum(conv(x), axis=2, reverse=True),
    "running sum over channels": rows_before,
    "largest rows": lambda x: lax.top_k(conv(x), 3, axis=1)[0],
    "sum over segments": lambda x: jnp.moveaxis(
        jax.ops.segment_sum(jnp.moveaxis(x, 1, 0), jnp.arange(N) // 3, num_segments=4), 0, 1
    ),
    "updates that meet": lambda x: jnp.zeros(SHAPE).at[:, jnp.asarray([0, 2, 2])].add(conv(x)[:, :3]),
    "colours of labels": lambda x: weights(4, 3)[jnp.clip((x[..., 0] * 2).astype(int), 0, 3)],
    "place in a table": lambda x: jnp.searchsorted(jnp.linspace(-2, 2, 9), x) * x,
    "vmap over channels": lambda x: jax.vmap(lambda c: conv(jnp.stack([c, c], -1)), in_axes=-1, out_axes=-1)(x).sum(-2),
    "two arrays put on a device": lambda x: sum(jax.device_put((x, conv(x)))),
    "unshuffle and slice": lambda x: jc.pixel_unshuffle(conv(x, (3, 1)), 2)[..., 2:5],
    "dilated pooling": lambda x: pool(x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 1, 2, 1), window_dilation=(1, 3, 2, 1)),
    "patches": patches,
    "nested scan": nested_scan,
    "recurrence over rows": recurrent,
    "custom_vjp": straight_through,
}
SLOW = {
    "squeeze and excite": squeeze_excite,
    "group norm": group_norm,
    "spectral norm": spectral_norm,
    "standardised weights": standardised,
    "running maximum": lambda x: lax.cummax(x, axis=1),
    "fft": lambda x: jnp.abs(jnp.fft.fft(x, axis=2)),
    "sort over channels": lambda x: conv(jnp.sort(x, -1)),
    "sort over rows": lambda x: conv(jnp.sort(x, 1)),
    "rows by index": lambda x: jnp.take(conv(x), jnp.asarray([3, 1, 1, 7, 0]), axis=1),
    "permuted and back": lambda x: conv(x[:, ::-1][:, jnp.asarray([1, 0, *range(2, N)])])[:, ::-1],
    "slice at constants": lambda x: lax.dynamic_slice(conv(x), (0, 2, 3, 0), (1, 5, 6, 2)),
    "update at constants": lambda x: lax.dynamic_update_slice(x, conv(x)[:, :4, :4], (0, 3, 5, 0)),
    "loop of updates": shifted,
    "roll": lambda x: conv(jnp.roll(x, (2, -3), (1, 2))),
    "flip": lambda x: conv(jnp.flip(x, (1, 2))) + x,
    "flip before pooling": lambda x: pool(jnp.flip(x, 1), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "rotation": lambda x: conv(jnp.rot90(x, 1, (1, 2))),
    "transposed skip": lambda x: x + jnp.swapaxes(x, 1, 2),
    "channels by einsum": lambda x: jnp.einsum("nhwc,cd->nhwd", conv(x), weights(2, 3)),
    "band by einsum": lambda x: jnp.einsum("uh,nhwc->nuwc", jnp.eye(N) + jnp.eye(N, k=2), x),
    "triangle by einsum": lambda x: jnp.einsum("uh,nhwc->nuwc", jnp.tri(N), x),
    "dense by einsum": lambda x: jnp.einsum("uh,nhwc->nuwc", weights(N, N), x),
    "outer product": lambda x: jnp.einsum("nhc,nwc->nhwc", x[:, :, 0], x[:, 0]),
    "vmap over kernels": lambda x: jax.vmap(lambda k: jc.conv(x, k, padding=1))(weights(3, 3, 3, 2, 2)).sum(0),
    "vmap over rows": lambda x: jax.vmap(lambda r: jnp.convolve(r[0, :, 0], jnp.ones(3), mode="same"), 1)(x)[
        None, :, :, None
    ],
    "map over rows": lambda x: jnp.moveaxis(lax.map(lambda r: r * 2 + jnp.roll(r, 1, 1), jnp.moveaxis(x, 1, 0)), 0, 1),
    "map over patches": map_patches,
    "recurrence from the end": lambda x: recurrent(x, reverse=True),
    "pooling of a spread input": lambda x: pool(
        x, 0.0, lax.add, (1, 3, 3, 1), pads=((0, 0), (1, 1), (1, 1), (0, 0)), base_dilation=(1, 2, 2, 1)
    ),
    "products in windows": lambda x: pool(x, 1.0, lax.mul, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "windows over channels": lambda x: pool(jnp.concatenate([x, conv(x)], -1), 0.0, lax.add, (1, 1, 1, 3)),
    "local norm": lambda x: x / (1 + pool(x * x, 0.0, lax.add, (1, 3, 3, 1))),
    "no shared weights": lambda x: lax.conv_general_dilated_local(
        x, weights(10, 10, 18, 2), (1, 1), "VALID", (3, 3), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "crop and pad": lambda x: lax.pad(conv(x), 0.0, ((0, 0, 0), (-2, 3, 0), (1, -4, 1), (0, 0, 0))),
    "grouped after unshuffle": lambda x: conv(jc.pixel_unshuffle(x, 2), out=8, groups=4),
    "shuffle of branches": lambda x: jc.pixel_shuffle(jnp.concatenate([conv(x, out=4), x, conv(x, (1, 1))], -1), 2),
    "asymmetric": lambda x: conv(conv(x, (5, 1)), (1, 7), rate=(1, 2)),
    "even and asymmetric": lambda x: conv(x, (2, 4), stride=(2, 1), pads=((0, 1), (3, 0))),
    "integers inside": lambda x: x * (conv(x) * 4).astype(jnp.int32).astype(x.dtype) + x,
    "other images of the batch": lambda x: conv(jnp.concatenate([x, x * 2, x + 1, x - 1], 0)).sum(0, keepdims=True),
    "interleaved rows": lambda x: jnp.stack([conv(x), conv(x, (1, 1))], axis=2).reshape(1, 2 * N, N, 2),
    "cubic": lambda x: jax.image.resize(x, (1, 18, 7, 2), "cubic"),
    "lanczos": lambda x: jax.image.resize(x, (1, 5, 24, 2), "lanczos3"),
    "aligned corners": lambda x: jc.resize(x, (17, 23), align_corners=True),
    "uneven nearest": lambda x: jax.image.resize(x, (1, 7, 17, 2), "nearest"),
    "repeated unevenly": lambda x: jnp.repeat(x, jnp.asarray([1, 3] * 6), axis=1, total_repeat_length=24),
    "written at every other": lambda x: x.at[:, ::2, 1::3].set(conv(x)[:, ::2, 1::3]),
    "subtracted at every other": lambda x: x.at[:, ::2].subtract(conv(x)[:, 1::2]),
    "rows one by one": lambda x: jnp.stack([2.0 * row for row in reversed(jnp.unstack(conv(x), axis=1))], 1),
    "tiled image": lambda x: conv(jnp.tile(x, (1, 2, 1, 1))),
    "differences": lambda x: jnp.gradient(jnp.diff(x, axis=1, n=2), axis=2),
    "rematerialised": lambda x: jax.checkpoint(jax.jit(lambda y: conv(jax.nn.gelu(conv(y)))))(x),
    "gradient of a network": lambda x: jax.grad(lambda y: (conv(y) ** 2).sum())(x),
    "branch at a constant": lambda x: lax.switch(1, [lambda y: y, conv, lambda y: conv(y, rate=(3, 3))], x),
    "space to batch": space_to_batch,
    "rows of an image as one line": lambda x: jnp.roll(x.reshape(1, N * N, 2), 1, 1).reshape(SHAPE),
    "median": lambda x: jnp.median(jnp.stack([jnp.roll(x, i, 1) for i in (-1, 0, 1)], -1), -1),
    "complex": lambda x: (lax.complex(x, conv(x)) * (1 + 2j)).real,
    "split pyramid": lambda x: conv(x, out=4)[..., :2] + conv(conv(x, out=4)[..., 2:]),
    **{f"pad {mode}": padded(mode) for mode in ("edge", "reflect", "symmetric", "wrap", "linear_ramp", "constant")},
}


def changed(fn, indices, axes, draws=4, seed=3):
    """Which pixels change the output at each index when they alone are changed."""

    @jax.jit
    def outputs(x, masks, step):
        return jax.vmap(lambda m: fn(jnp.where(m, 1.7 * x[..., ::-1] + step, x)))(masks)

    masks = np.concatenate([np.eye(N * N, dtype=bool), np.zeros((1, N * N), bool)]).reshape(-1, 1, N, N, 1)
    seen = np.zeros((len(indices), N, N), bool)
    for draw in range(draws):
        step = (0.9, -7.0, 7.0, -0.4)[draw % 4]  # large ones, so that what sorts or chooses notices
        y = np.asarray(outputs(np.random.default_rng((seed, draw)).standard_normal(SHAPE), masks, step))
        for number, index in enumerate(indices):
            where = [slice(None)] * y.ndim
            for axis, i in zip(axes, index, strict=True):
                where[axis + 1] = i
            found = y[tuple(where)].reshape(len(masks), -1)
            seen[number] |= (np.abs(found - found[-1]) > 1e-9).any(1)[:-1].reshape(N, N)
    return seen


def compare(fn, name):
    image = jax.ShapeDtypeStruct(SHAPE, jnp.float64)
    field = receptive_field(fn, image, method="jaxpr")
    indices = [(0,) * 2, tuple(n // 2 for n in field.output_size), tuple(n - 1 for n in field.output_size)]
    for index, expected in zip(indices, changed(fn, indices, field.result_axes), strict=True):
        mask = field.mask(index, through_global=True)
        assert not (expected & ~mask).any(), f"{name}: what output {index} reads is missing"
        np.testing.assert_array_equal(mask, expected, err_msg=f"{name} at {index}")
        own = field.mask(index)
        assert not (own & ~mask).any()
        assert field.global_ops or (own == mask).all()
    try:
        found = gridding(fn, image)
        assert found.output.counts.any()
    except NotUnderstood as problem:
        assert field.global_ops and "except through global operations" in str(problem)


@pytest.mark.parametrize("name", QUICK)
def test_masks_are_what_changes(x64, name):
    compare(QUICK[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_masks_are_what_changes_in_many_graphs(x64, name):
    compare(SLOW[name], name)


@pytest.mark.parametrize(
    ("fn", "primitive", "reason"),
    [
        (lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1), "gather", "depend on the data"),
        (lambda x: x[:, jnp.asarray([[1, 2], [3, 4]]), jnp.asarray([[4, 3], [2, 1]])], "gather", "indexed together"),
        (
            lambda x: lax.dynamic_slice_in_dim(x, jnp.argmax(x[0, :, 0, 0]), 5, 1),
            "dynamic_slice",
            "depends on the data",
        ),
        (lambda x: lax.pad(x, x[0, 0, 0, 0], [(0, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 0)]), "pad", "padding value"),
        (lambda x: jc.conv(x, x[:, :3, :3].reshape(3, 3, 2, 1), padding=1), "conv_apply", "kernel depends"),
        (lambda x: jnp.linalg.inv(x[..., :1, None] * jnp.eye(2) + jnp.eye(2)).sum(-1), "lu", "no rule"),
    ],
    ids=["runtime gather", "two axes", "runtime slice", "padding value", "kernel from data", "inverse"],
)
def test_what_is_hard_is_refused_by_name(fn, primitive, reason):
    with pytest.raises(NotUnderstood, match=f"'{primitive}'.*{reason}"):
        receptive_field(fn, jax.ShapeDtypeStruct(SHAPE, jnp.float32), method="jaxpr")


def test_one_axis_of_a_network_over_two(x64):
    def net(x):
        return conv(jc.max_pool(conv(x), 3, stride=2, padding=1))

    image = jax.ShapeDtypeStruct(SHAPE, jnp.float64)
    both, one = receptive_field(net, image), receptive_field(net, image, spatial_axes=(2,))
    assert (one.size, one.stride, one.offset) == (both.size[1:], both.stride[1:], both.offset[1:])


def test_steps_of_windows_resizes_and_mirrored_borders():
    image = jax.ShapeDtypeStruct((1, 64, 48, 2), jnp.float32)
    frames = np.arange(12)[:, None] * 5 + np.arange(7)
    mirrored = np.abs(np.arange(-3, 64))
    found = {
        "windows": receptive_field(lambda x: x[:, frames].sum(2), image).stride,
        "mirrored": receptive_field(lambda x: x[:, mirrored], image).stride,
        "resized": receptive_field(lambda x: jc.resize(x, (48, 36), method="cubic", antialias=True), image).stride,
    }
    assert found == {"windows": (5, 1), "mirrored": (1, 1), "resized": (Fraction(4, 3), Fraction(4, 3))}


def test_resizes_are_layers():
    def net(x):
        y = jax.image.resize(conv(x, stride=(2, 2)), (1, 16, 18, 2), "linear")
        return conv(jc.resize(conv(y), scale=2, method="nearest"))

    found = gridding(net, jax.ShapeDtypeStruct((1, 16, 24, 2), jnp.float32))
    rows = [(layer.kind, layer.output_size, layer.base, layer.stride) for layer in found.layers]
    assert [row[0] for row in rows] == ["conv", "resize", "conv", "resize", "conv"]
    assert rows[1][1:] == ((16, 18), (2, 3), (1, 2)) and rows[3][1:] == ((32, 36), (2, 2), (1, 1))


def test_checkerboards_of_outputs_that_are_no_plain_images():
    image = jax.ShapeDtypeStruct((1, 24, 24, 2), jnp.float32)

    def up(x):
        return jc.conv_transpose(x, jnp.ones((3, 3, 2, 2)), stride=2, padding="SAME")

    plain = checkerboard(up, image, draws=2, fixes=False)
    narrow = checkerboard(lambda x: up(x)[..., 0], image, draws=2, fixes=False)
    assert narrow.score == pytest.approx(plain.score) and narrow.counts == plain.counts
    labels = checkerboard(lambda x: (up(x)[..., 0] > 0).astype(jnp.int32), image, draws=2, fixes=False)
    assert labels.gradient_score is None and "int32" in labels.notes[-1]
    everywhere = checkerboard(lambda x: jnp.sort(x, 1), image, draws=1)
    assert everywhere.counts is None and "read whole axes" in everywhere.notes[0]
    loop = checkerboard(
        lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, conv(s[1])), (0, x))[1], image, draws=1
    )
    assert loop.gradient_score is None
    assert any("gradient at the input is not measured" in note for note in loop.notes)
    with pytest.raises(ValueError, match="has 1 of the image's 2 spatial axes"):
        checkerboard(lambda x: lax.top_k(x[..., 0].reshape(1, -1), 5)[0], image, draws=1)
