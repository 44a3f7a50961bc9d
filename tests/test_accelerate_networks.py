"""accelerate on U-Nets as flax NNX, linen and equinox build them: equal values, gradients, steps and statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_accelerate import primitives, same

from jaxconv._accelerate import accelerate

X = jnp.asarray(np.random.default_rng(3).standard_normal((2, 8, 8, 3)), jnp.float32)


# ---------------------------------------------------------------------- flax NNX


def nnx_unet(transpose_kernel=True):
    """flax.nnx and a fresh model."""
    nnx, make, _ = _nnx_parts()
    return nnx, nnx.clone(make(transpose_kernel))


@functools.cache
def _nnx_parts():
    nnx = pytest.importorskip("flax.nnx", reason="the flax.nnx networks need flax")

    class UNet(nnx.Module):
        def __init__(self, transpose_kernel, rngs):
            self.down = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.middle = nnx.Conv(8, 8, (3, 3), kernel_dilation=2, feature_group_count=2, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)
            self.up = nnx.ConvTranspose(8, 4, (3, 3), strides=2, transpose_kernel=transpose_kernel, rngs=rngs)
            self.head = nnx.Conv(7, 2, (1, 1), rngs=rngs)

        def features(self, x):
            return nnx.relu(self.norm(self.down(x)))

        def __call__(self, x):
            y = self.features(x)
            y = y + self.dropout(nnx.remat(lambda m, v: jnp.tanh(m(v)))(self.middle, y))
            return self.head(jnp.concatenate([self.up(y), x], -1))

    make = functools.cache(lambda transpose_kernel: nnx.jit(lambda: UNet(transpose_kernel, nnx.Rngs(0)))())
    return nnx, make, nnx.jit(lambda m, x: m(x))


@pytest.mark.slow
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_nnx_forward_keeps_batch_statistics_and_random_state(transpose_kernel):
    nnx, plain = nnx_unet(transpose_kernel=transpose_kernel)
    fast_model = nnx.clone(plain)
    want = _nnx_parts()[2](plain, X)
    same(accelerate(lambda m, x: m(x))(fast_model, X), want)
    same(nnx.to_pure_dict(nnx.state(fast_model)), nnx.to_pure_dict(nnx.state(plain)))
    assert int(fast_model.dropout.rngs.count[...]) == 1


def test_nnx_module_and_its_methods_as_functions():
    nnx, plain = nnx_unet()
    fast_model = nnx.clone(plain)
    accelerate(fast_model)(X)
    same(accelerate(fast_model.features)(X), nnx.jit(lambda m, x: (m(x), m.features(x))[1])(plain, X))
    same(nnx.to_pure_dict(nnx.state(fast_model)), nnx.to_pure_dict(nnx.state(plain)))


@pytest.mark.slow
def test_nnx_train_step_with_its_own_gradient():
    optax = pytest.importorskip("optax", reason="the training step needs optax")
    nnx, plain = nnx_unet()

    def step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x)[..., :1] - x[..., :1]) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    fast_model = nnx.clone(plain)
    optimizers = [nnx.Optimizer(m, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param) for m in (plain, fast_model)]
    plain_step, fast_step = nnx.jit(step), accelerate(step)
    for _ in range(2):
        same(fast_step(fast_model, optimizers[1], X), plain_step(plain, optimizers[0], X))
    same(nnx.to_pure_dict(nnx.state(fast_model)), nnx.to_pure_dict(nnx.state(plain)))
    same(nnx.to_pure_dict(nnx.state(optimizers[1])), nnx.to_pure_dict(nnx.state(optimizers[0])))

    report = accelerate.report(fast_step, fast_model, optimizers[1], X)
    faces = [row.face for row in report]
    assert not report.left_alone and {face: faces.count(face) for face in set(faces)} == {
        "apply": 7,  # down, middle, head; middle again (remat); input gradients of middle, up and head
        "adjoint": 1,  # up
        "kernel": 4,
    }, str(report)


@pytest.mark.slow
def test_nnx_shared_modules_and_gradients_outside():
    nnx, plain = nnx_unet()
    fast_model = nnx.clone(plain)

    def loss(model, twin, x):
        return jnp.mean(model(x) ** 2) + jnp.mean(twin["same"].norm.mean[...])

    fast = accelerate(loss)
    fast(fast_model, {"same": fast_model}, X)
    _nnx_parts()[2](plain, X)
    same(nnx.to_pure_dict(nnx.state(fast_model)), nnx.to_pure_dict(nnx.state(plain)))
    got = nnx.jit(nnx.grad(lambda m, x: fast(m, {"same": m}, x)))(fast_model, X)
    want = nnx.jit(nnx.grad(lambda m, x: loss(m, {"same": m}, x)))(plain, X)
    same(nnx.to_pure_dict(got), nnx.to_pure_dict(want))
    same(nnx.to_pure_dict(nnx.state(fast_model)), nnx.to_pure_dict(nnx.state(plain)))


def test_nnx_state_is_a_pure_value():
    """Split outside and merged inside: nothing is written back, into the state or the module it came from."""
    nnx, plain = nnx_unet()
    graph, state = nnx.split(plain)
    before = nnx.to_pure_dict(nnx.state(plain))

    def fn(state, x):
        model = nnx.merge(graph, state)
        return model.features(x), nnx.state(model, nnx.BatchStat)

    got, want = accelerate(fn)(state, X), jax.jit(fn)(state, X)
    assert isinstance(got[1], nnx.State)
    same(got[0], want[0])
    same(nnx.to_pure_dict(got[1]), nnx.to_pure_dict(want[1]))
    same(nnx.to_pure_dict(nnx.state(plain)), before)


def test_nnx_structural_change_is_refused():
    _, model = nnx_unet()

    def fn(m, x):
        m.eval()
        return m(x)

    with pytest.raises(ValueError, match=r"changed the structure or a static attribute .* before the call"):
        accelerate(fn)(model, X)


# ---------------------------------------------------------------------- flax linen


@pytest.mark.slow
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_linen_unet(transpose_kernel):
    nn = pytest.importorskip("flax.linen", reason="the linen network needs flax")

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            y = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3), strides=2)(x)))
            y = y + nn.Dropout(0.3, deterministic=not train)(nn.remat(nn.Conv)(8, (3, 3), kernel_dilation=2)(y))
            y = nn.ConvTranspose(4, (3, 3), strides=(2, 2), transpose_kernel=transpose_kernel)(y)
            return nn.Conv(2, (1, 1))(jnp.concatenate([y, x], -1))

    model = UNet()
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), X, False)

    def step(variables, x, key, train):
        def loss(params):
            everything = {"params": params, "batch_stats": variables["batch_stats"]}
            y, updates = model.apply(everything, x, train, rngs={"dropout": key}, mutable=["batch_stats"])
            return jnp.mean(y**2), updates

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    want = jax.jit(step, static_argnums=3)(variables, X, jax.random.key(1), True)
    fast = accelerate(step)
    same(fast(variables, X, jax.random.key(1), True), want)
    assert "conv_general_dilated" not in primitives(
        jax.make_jaxpr(fast, static_argnums=3)(variables, X, jax.random.key(1), True).jaxpr
    )


# ---------------------------------------------------------------------- equinox


@pytest.mark.slow
def test_equinox_unet_under_vmap():
    eqx = pytest.importorskip("equinox", reason="the equinox network needs equinox")

    class UNet(eqx.Module):
        down: eqx.nn.Conv2d
        middle: eqx.nn.Conv2d
        up: eqx.nn.ConvTranspose2d
        norm: eqx.nn.GroupNorm
        dropout: eqx.nn.Dropout
        activation: object

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.down = eqx.nn.Conv2d(3, 8, 3, stride=2, padding=1, key=keys[0])
            self.middle = eqx.nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, key=keys[1])
            self.up = eqx.nn.ConvTranspose2d(8, 4, 3, 2, padding=2, output_padding=1, dilation=2, key=keys[2])
            self.norm = eqx.nn.GroupNorm(2, 8)
            self.dropout = eqx.nn.Dropout(0.3)
            self.activation = jax.nn.relu

        def __call__(self, x, key):
            y = self.activation(self.norm(self.down(x)))
            return self.up(y + self.dropout(self.middle(y), key=key))

    model = eqx.filter_jit(UNet)(jax.random.key(0))
    images, keys = jnp.moveaxis(X, -1, 1), jax.random.split(jax.random.key(1), 2)

    def step(model, images, keys):
        def loss(m):
            return jnp.mean(jax.vmap(m)(images, keys) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        return value, eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

    value, updated = accelerate(step)(model, images, keys)
    want_value, want = eqx.filter_jit(step)(model, images, keys)
    assert isinstance(updated, UNet) and updated.activation is jax.nn.relu
    same((value, eqx.filter(updated, eqx.is_array)), (want_value, eqx.filter(want, eqx.is_array)))
    report = accelerate.report(step, model, images, keys)
    assert not report.left_alone and {"apply", "adjoint", "kernel"} == {row.face for row in report}, str(report)


# ---------------------------------------------------------------------- plain jax


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    spatial = "WHD"[:rank]
    numbers = ("NC" + spatial, "OI" + spatial, "NC" + spatial)

    def loss(w, x):
        y = jax.lax.conv_general_dilated(x, w, (2,) * rank, "SAME", rhs_dilation=(2,) * rank, dimension_numbers=numbers)
        return jnp.sum(jnp.tanh(jax.lax.conv_transpose(y, w, (2,) * rank, "SAME", dimension_numbers=numbers)) ** 2)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 2, *(4,) * rank)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((2, 2, *(3,) * rank)), jnp.float32)
    fast = accelerate(jax.value_and_grad(loss, (0, 1)))
    same(fast(w, x), jax.jit(jax.value_and_grad(loss, (0, 1)))(w, x))
    assert not accelerate.report(fast, w, x).left_alone
