"""From a unit back to pixels: the three rules against explicit loops, every form of a ReLU, transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv.analysis import receptive_field, strongest_patches, visualise, with_relu_rule

METHODS = ("exact", "deconvnet", "guided")


# ---------------------------------------------------------------------------------- a network by hand, forward and back
def hand_conv(x, w):
    """SAME convolution (odd kernels) of (h, w, i) with (k, k, i, o), written out."""
    k, p = w.shape[0], w.shape[0] // 2
    y = np.zeros((*x.shape[:2], w.shape[3]))
    for i, j, a, b in np.ndindex(*x.shape[:2], k, k):
        u, v = i + a - p, j + b - p
        if 0 <= u < x.shape[0] and 0 <= v < x.shape[1]:
            y[i, j] += x[u, v] @ w[a, b]
    return y


def hand_conv_back(r, w):
    k, p = w.shape[0], w.shape[0] // 2
    x = np.zeros((*r.shape[:2], w.shape[2]))
    for i, j, a, b in np.ndindex(*r.shape[:2], k, k):
        u, v = i + a - p, j + b - p
        if 0 <= u < r.shape[0] and 0 <= v < r.shape[1]:
            x[u, v] += w[a, b] @ r[i, j]
    return x


def hand_pool(x, k, s):
    """Maxima, and the switches: where in x each came from."""
    n, m, c = (x.shape[0] - k) // s + 1, (x.shape[1] - k) // s + 1, x.shape[2]
    y, switches = np.zeros((n, m, c)), np.zeros((n, m, c, 2), int)
    for i, j, f in np.ndindex(n, m, c):
        window = x[i * s : i * s + k, j * s : j * s + k, f]
        at = np.unravel_index(window.argmax(), window.shape)
        y[i, j, f], switches[i, j, f] = window[at], (i * s + at[0], j * s + at[1])
    return y, switches


def hand_unpool(r, switches, shape):
    x = np.zeros(shape)
    for i, j, f in np.ndindex(*r.shape):
        x[(*switches[i, j, f], f)] += r[i, j, f]
    return x


def hand_rule(r, before, method):
    """The backward signal r at a ReLU whose input was `before`."""
    mask = before > 0
    return {"exact": r * mask, "deconvnet": np.maximum(r, 0), "guided": np.maximum(r, 0) * mask}[method]


def weights(*shapes, seed=5):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) / np.sqrt(np.prod(s[:-1])) for s in shapes]


def by_hand(x, kernels, hot, method, pool):
    """conv, ReLU, pool, conv, ReLU, conv: the projection of a cotangent of the output, and the output."""
    a, b, c = kernels
    h1 = hand_conv(x, a)
    p1, switches = hand_pool(np.maximum(h1, 0), *pool)
    h2 = hand_conv(p1, b)
    y = hand_conv(np.maximum(h2, 0), c)
    r = hand_rule(hand_conv_back(hot, c), h2, method)
    r = hand_unpool(hand_conv_back(r, b), switches, h1.shape)
    return y, hand_conv_back(hand_rule(r, h1, method), a)


RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(0, x),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where not": lambda x: jnp.where(x <= 0, 0.0, x),
    "select": lambda x: lax.select(0 < x, x, jnp.zeros_like(x)),
    "mask": lambda x: x * (x > 0),
    "clip": lambda x: jnp.clip(x, 0),
    "max with zeros": lambda x: lax.max(x, jnp.zeros_like(x)),
    "jit": jax.jit(jax.nn.relu),
    "remat": jax.checkpoint(jax.nn.relu),
    "cond": lambda x: lax.cond(x[0, 0, 0, 0] < 1e9, jax.nn.relu, lambda x: -x, x),
    "custom": jax.custom_jvp(lambda x: jnp.maximum(x, 0)),
}
RELUS["custom"].defjvp(lambda primals, tangents: (RELUS["custom"](primals[0]), tangents[0] * (primals[0] > 0)))
POOLS = {
    "jc": lambda x, k, s: jc.max_pool(x, k, stride=s),
    "jc with indices": lambda x, k, s: jc.max_pool(x, k, stride=s, return_indices=True)[0],
    "lax": lambda x, k, s: lax.reduce_window(x, -jnp.inf, lax.max, (1, k, k, 1), (1, s, s, 1), "VALID"),
}


def network(kernels, relu="jax.nn.relu", pool="jc", window=(2, 2)):
    a, b, c = (jnp.asarray(k) for k in kernels)

    def net(x):
        x = POOLS[pool](RELUS[relu](jc.conv(x, a, padding=1)), *window)
        x = RELUS[relu](lax.conv_general_dilated(x, b, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        return jc.conv(x, c)

    return net


SHAPES = ((3, 3, 2, 4), (3, 3, 4, 5), (1, 1, 5, 3))


@pytest.mark.parametrize(
    ("pool", "window"), [("jc", (2, 2)), ("jc", (3, 2)), ("jc with indices", (3, 2)), ("lax", (3, 2))], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_rules_equal_the_definitions(x64, method, pool, window):
    kernels, (x,) = weights(*SHAPES), weights((9, 8, 2), seed=6)
    net = network(kernels, pool=pool, window=window)
    index = (0, 1, 2, 1)
    hot = np.zeros(np.asarray(net(x[None])).shape)
    hot[index] = 1
    y, expected = by_hand(x, kernels, hot[0], method, window)
    seen = visualise(net, x[None], unit=index, method=method)
    np.testing.assert_allclose(seen.image[0], expected, rtol=1e-12, atol=1e-14)
    assert seen.value == pytest.approx(y[index[1:]], rel=1e-12)
    assert len(seen.relus) == 2 and len(seen.pools) == 1 and not seen.kept
    if method == "exact":
        gradient = jax.grad(lambda z: net(z)[index])(x[None])
        np.testing.assert_allclose(seen.image, gradient, rtol=1e-12, atol=1e-14)


def test_the_three_rules_differ():
    kernels, (x,) = weights(*SHAPES), weights((9, 8, 2), seed=6)
    images = [by_hand(x, kernels, np.ones((4, 4, 3)), m, (2, 2))[1] for m in METHODS]
    assert min(np.abs(a - b).max() for a, b in zip(images, images[1:] + images[:1])) > 1e-2


@pytest.mark.parametrize("form", RELUS)
def test_every_way_to_write_a_relu(x64, form):
    kernels, (x,) = weights(*SHAPES), weights((9, 8, 2), seed=6)
    hot = np.random.default_rng(7).standard_normal((4, 4, 3))
    for method in METHODS[1:]:
        seen = visualise(network(kernels, relu=form), x[None], cotangent=hot[None], method=method)
        expected = by_hand(x, kernels, hot, method, (2, 2))[1]
        np.testing.assert_allclose(seen.image[0], expected, rtol=1e-12, atol=1e-13, err_msg=f"{form}, {method}")
        assert len(seen.relus) == 2, form


@pytest.mark.parametrize("form", ["relu6", "clip", "clamp"])
def test_a_clipped_relu_keeps_the_derivative_of_its_upper_bend(form):
    clipped = {"relu6": jax.nn.relu6, "clip": lambda x: jnp.clip(x, 0, 6), "clamp": lambda x: lax.clamp(0.0, x, 6.0)}
    x = jnp.asarray([-2.0, -1.0, 1.0, 2.0, 7.0, 8.0])
    r = jnp.asarray([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    for method, expected in (("deconvnet", [1, 0, 1, 0, 0, 0]), ("guided", [0, 0, 1, 0, 0, 0])):
        y, pull = jax.vjp(with_relu_rule(clipped[form], method), x)
        assert y.tolist() == [0, 0, 1, 2, 6, 6] and pull(r)[0].tolist() == expected


def test_loops_and_their_turns():
    def net(x):
        x, _ = lax.scan(lambda h, w: (jax.nn.relu(h * w), None), x, jnp.asarray([1.0, -1.0, -1.0]))
        return -lax.fori_loop(0, 2, lambda i, h: jax.nn.relu(h + i), x)

    x = jnp.asarray([[1.0, -1.0]])
    seen = visualise(net, x, cotangent=jnp.asarray([[-1.0, -1.0]]), method="deconvnet")
    assert sum(p.times for p in seen.relus) == 5
    # The signal is 1 until it meets h * w with w = -1: rectified there, it stays zero.
    assert seen.image.tolist() == [[0.0, 0.0]]
    turn = visualise(
        lambda x: -lax.fori_loop(0, 2, lambda i, h: jax.nn.relu(h + i), x), x, unit=(0, 0), method="guided"
    )
    assert turn.image.tolist() == [[0.0, 0.0]] and visualise(
        lambda x: lax.fori_loop(0, 2, lambda i, h: jax.nn.relu(h + i), x), x, unit=(0, slice(None)), method="deconvnet"
    ).image.tolist() == [[1.0, 1.0]]


def test_under_jit_vmap_and_grad(x64):
    kernels = weights(*SHAPES)
    images = np.random.default_rng(8).standard_normal((3, 9, 8, 2))
    net = with_relu_rule(network(kernels), "guided")

    def project(image):
        return jax.grad(lambda z: net(z[None])[..., 1].sum())(image)

    hot = np.zeros((4, 4, 3))
    hot[..., 1] = 1
    expected = [by_hand(image, kernels, hot, "guided", (2, 2))[1] for image in images]
    np.testing.assert_allclose(jax.jit(jax.vmap(project))(images), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(jax.jit(net)(images), jax.jit(network(kernels))(images))
    # Parameters and values that do not depend on the image keep their exact derivative.
    gate = with_relu_rule(lambda x, w: x * jax.nn.relu(w) + jax.nn.relu(x), "deconvnet")
    assert jax.grad(gate, argnums=1)(2.0, -1.0) == 0


def test_channels_and_their_strongest_units():
    kernels = [k.astype(np.float32) for k in weights(*SHAPES)]
    images = np.random.default_rng(9).standard_normal((2, 9, 8, 2)).astype(np.float32)
    net = network(kernels)
    y = np.asarray(net(images))
    seen = visualise(net, images, channel=2)
    for n, place in enumerate(seen.unit):
        assert place == (n, *np.unravel_index(y[n, ..., 2].argmax(), y.shape[1:3]), 2)
        alone = visualise(net, images, unit=place).image
        np.testing.assert_allclose(seen.image[n], alone[n], atol=1e-6)
    first = lambda x: jnp.moveaxis(net(x), -1, 1)  # noqa: E731
    np.testing.assert_allclose(visualise(first, images, channel=2, channel_axis=1).image, seen.image, atol=1e-6)
    assert seen.value == pytest.approx(y[..., 2].max((1, 2)).sum(), rel=1e-5)
    np.testing.assert_allclose(seen.times_input, seen.image * images)


def test_what_is_left_exact_is_named_and_nothing_is_silent():
    x = jnp.linspace(-2, 2, 8).reshape(1, 4, 2)
    with pytest.warns(UserWarning, match="no ReLU found.*leaky_relu"):
        seen = visualise(lambda x: jax.nn.leaky_relu(x) * 2, x, unit=(0, 0, 0))
    assert "No ReLU found" in seen.why and [p.name for p in seen.kept] == ["leaky_relu"]
    assert seen.image[0, 0, 0] == pytest.approx(0.02)
    with pytest.warns(UserWarning, match="no ReLU"):
        with_relu_rule(jnp.tanh, "deconvnet")(x)

    def mixed(x):
        with jax.named_scope("gate"):
            gate = jax.nn.softplus(x) + jax.nn.silu(x)
        return jax.nn.relu(x) * gate + jax.nn.softmax(x) + jnp.maximum(x, x[:, ::-1])

    seen = visualise(mixed, x, unit=(0, 0, 0))
    assert {p.name for p in seen.kept} >= {"softplus", "silu", "max of two values"} and len(seen.relus) == 1
    assert "1 ReLU" in seen.why and any("gate" in str(p) for p in seen.kept) and not seen.pools


def test_modules_and_their_places():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            with jax.named_scope("block"):
                x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
            return x

    net, x = Net(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    seen = visualise(net, x, channel=1)
    assert [p.place for p in seen.relus] == ["block"] and len(seen.pools) == 1
    box = receptive_field(net, x).box(seen.unit[0][1:3])
    outside = np.asarray(seen.image[0]).copy()
    outside[box] = 0
    assert not outside.any() and np.abs(seen.image[0][box]).max() > 0


@pytest.mark.slow
def test_models_of_the_library():
    pytest.importorskip("flax.nnx")
    from flax import nnx

    from jaxconv.models import UNet

    model = UNet(3, 5, rngs=nnx.Rngs(0))
    model.eval()
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    exact, guided = (visualise(model, x, channel=1, method=m) for m in ("exact", "guided"))
    gradient = jax.grad(lambda z: model(z)[exact.unit[0]])(x)
    np.testing.assert_allclose(exact.image, gradient, atol=1e-5 * float(jnp.abs(gradient).max()))
    assert len(guided.relus) > 5 and guided.pools and not np.allclose(exact.image, guided.image)


def test_bad_arguments_are_named():
    net, x = jax.nn.relu, jnp.ones((1, 4, 4, 2))
    with pytest.raises(ValueError, match="method='magic' must be one of 'exact', 'deconvnet', 'guided'"):
        visualise(net, x, unit=0, method="magic")
    with pytest.raises(ValueError, match="exactly one of unit, channel and cotangent, got none"):
        visualise(net, x)
    with pytest.raises(ValueError, match="got unit and channel"):
        visualise(net, x, unit=0, channel=1)
    with pytest.raises(ValueError, match=r"unit=\(0, 9\) is no index of the output's shape \(1, 4, 4, 2\)"):
        visualise(net, x, unit=(0, 9))
    with pytest.raises(ValueError, match="channel=2 is outside of the output's 2 channels"):
        visualise(net, x, channel=2)
    with pytest.raises(ValueError, match=r"cotangent has shape \(4,\)"):
        visualise(net, x, cotangent=jnp.ones(4))
    with pytest.raises(TypeError, match="uint8: scale it first"):
        visualise(net, jnp.ones((1, 4, 4, 2), jnp.uint8), unit=0)
    with pytest.raises(TypeError, match="numbers in it"):
        visualise(net, jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32), unit=0)
    with pytest.raises(ValueError, match="choose one with output="):
        visualise(lambda x: (x, x), x, unit=0)


@pytest.mark.parity
@pytest.mark.parametrize("method", METHODS)
def test_pytorch_hooks(method):
    """The hooks that PyTorch users write: on the gradient that leaves each ReLU."""
    torch = pytest.importorskip("torch")

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, r):
            (x,) = ctx.saved_tensors
            if method != "exact":
                r = r.clamp(min=0)
            return r if method == "deconvnet" else r * (x > 0)

    rng = np.random.default_rng(11)
    a, b = (rng.standard_normal(s).astype(np.float32) / 5 for s in ((3, 3, 3, 6), (3, 3, 6, 4)))
    image = rng.standard_normal((2, 12, 11, 3)).astype(np.float32)

    def net(x):
        x = jc.max_pool(jax.nn.relu(jc.conv(x, a, padding=1)), 3, stride=2, padding=1)
        return jax.nn.relu(jc.conv(x, b, stride=2, padding=1))

    x = torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True)
    ta, tb = (torch.tensor(w.transpose(3, 2, 0, 1)) for w in (a, b))
    y = torch.nn.functional.max_pool2d(Rule.apply(torch.nn.functional.conv2d(x, ta, padding=1)), 3, 2, 1)
    y = Rule.apply(torch.nn.functional.conv2d(y, tb, stride=2, padding=1))
    hot = rng.standard_normal(tuple(y.shape)).astype(np.float32)
    y.backward(torch.tensor(hot))
    seen = visualise(net, image, cotangent=hot.transpose(0, 2, 3, 1), method=method)
    np.testing.assert_allclose(seen.image, x.grad.numpy().transpose(0, 2, 3, 1), atol=2e-6)

    # The same from the other side: a hook that PyTorch users put on nn.ReLU for guided backpropagation.
    if method == "guided":
        relus = [torch.nn.ReLU(), torch.nn.ReLU()]
        for layer in relus:
            layer.register_full_backward_hook(lambda module, into, out: (into[0].clamp(min=0),))
        x2 = x.detach().clone().requires_grad_()
        z = torch.nn.functional.max_pool2d(relus[0](torch.nn.functional.conv2d(x2, ta, padding=1)), 3, 2, 1)
        relus[1](torch.nn.functional.conv2d(z, tb, stride=2, padding=1)).backward(torch.tensor(hot))
        np.testing.assert_allclose(seen.image, x2.grad.numpy().transpose(0, 2, 3, 1), atol=2e-6)


# ---------------------------------------------------------------------------------------------------------- patches
def test_patches_are_the_fields_of_the_strongest_units():
    w = jnp.ones((3, 3, 1, 1))
    images = np.zeros((3, 12, 14, 1), np.float32)
    images[0, 4, 4], images[1, 8, 8], images[1, 2, 2], images[2, 0, 12] = 2, 5, 4, 3  # each in one field only

    def net(x):
        return jc.conv(x, w, stride=2, padding=1)

    found = strongest_patches(net, images, channel=0, per_image=2, count=4)
    assert [(p.image, p.value) for p in found] == [(1, 5), (1, 4), (2, 3), (0, 2)]
    for patch in found:
        field = receptive_field(net, images).box(patch.unit[1:3])
        assert patch.box == field and patch.pixels.shape[:2] == tuple(s.stop - s.start for s in field)
        assert patch.pixels.sum() == patch.value
    assert [p.image for p in strongest_patches(net, images, channel=0)] == [1, 2, 0]
    with pytest.raises(ValueError, match="channel=3 is outside"):
        strongest_patches(net, images, channel=3)
