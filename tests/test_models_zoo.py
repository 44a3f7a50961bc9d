"""Encoders under decoders, generators and stacks: published counts, odd sizes, settings, refusals, learning."""

# ruff: noqa: E501
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxconv.models import (
    ENCODERS,
    FCN,
    REGISTRY,
    DCGANGenerator,
    ESPNet,
    HiFiGAN,
    ResNet,
    Segmentation,
    UNet,
    WaveNet,
    freeze,
    segmentation,
    trainable,
)
from jaxconv.models.segmentation import ARCHITECTURES
from jaxconv.nn.dense import UPSAMPLERS


def rngs():
    # A generator that compiles quickly: initialisers compile for each shape.
    return nnx.Rngs(jax.random.key(0, impl="unsafe_rbg"))


def parameters(make):
    return sum(p.size for p in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))


def shape_of(make, *shape):
    return nnx.eval_shape(lambda x: make()(x), jax.ShapeDtypeStruct(shape, jnp.float32)).shape


# Small versions of everything in the registry, and an input that each takes.
TINY = {
    "dcgan_discriminator": ({"width": 4, "size": 16}, (2, 16, 16, 3)),
    "dcgan_generator": ({"latent": 6, "width": 4, "size": 16}, (2, 6)),
    "enet": ({"classes": 5}, (1, 16, 24, 3)),
    "espnet": ({"classes": 6, "p": 1, "q": 1}, (1, 13, 18, 3)),
    "fcn": ({"classes": 5, "widths": (3, 4, 5, 6, 7), "hidden": 8}, (1, 37, 41, 3)),
    "fsrcnn": ({"features": 4, "shrunk": 3, "maps": 1}, (1, 7, 5, 3)),
    "hifigan": (
        {"mels": 5, "width": 8, "strides": (4, 2), "kernels": (8, 4), "block_kernels": (3, 5),
         "block_rates": ((1, 3), (1, 2))}, (2, 7, 5),
    ),
    "mobilenetv2": ({"classes": 7, "width": 0.1}, (1, 33, 35, 3)),
    **{f"resnet{d}": ({"classes": 7, "width": 4}, (1, 33, 35, 3)) for d in (18, 34, 50, 101)},
    "segmentation": ({"architecture": "unet", "encoder": "resnet18", "encoder_width": 0.1, "width": 128, "classes": 5}, (1, 37, 41, 3)),
    "unet": ({"in_channels": 2, "classes": 3, "widths": (3, 4)}, (1, 7, 9, 2)),
    "vgg16": ({"classes": 7, "widths": (2, 3, 4, 5, 6), "hidden": 8}, (1, 33, 35, 3)),
    "vgg16_bn": ({"classes": 7, "widths": (2, 3, 4, 5, 6), "hidden": 8}, (1, 33, 35, 3)),
    "wavenet": ({"classes": 8, "residual": 4, "dilated": 4, "skip": 5, "end": 6, "layers": 3, "blocks": 2}, (2, 11, 8)),
    **{name: ({"classes": 5, "encoder": "vgg16_bn" if name == "segnet" else "resnet18", "encoder_width": 0.1}, (1, 37, 41, 3))
       for name in ARCHITECTURES if name != "unet"},
}  # fmt: skip
for name in ("deeplabv3", "deeplabv3plus"):
    TINY[name][0]["width"] = 8


# What differs from another only in depth or in its head's numbers is tested with the slow ones.
ALIKE = {"resnet34", "resnet50", "resnet101", "vgg16_bn", "duc", "context", "fcn16s", "fcn32s", "deeplabv3"}


def marked(names):
    return [pytest.param(n, marks=[pytest.mark.slow] if n in ALIKE else []) for n in sorted(names)]


@pytest.mark.parametrize("name", marked(REGISTRY))
def test_every_model_is_made_again_from_its_settings_and_says_what_it_takes(name):
    settings, shape = TINY[name]

    def both(x, **settings):
        model = REGISTRY[name](**settings, rngs=rngs())
        model.eval()
        return model, model(x)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    model, out = nnx.eval_shape(lambda x: both(x, **settings), x)
    config = json.loads(json.dumps(model.config))
    again, same = nnx.eval_shape(lambda x: both(x, **config), x)
    assert again.config == config and same.shape == out.shape
    shapes = [jax.tree.map(lambda a: a.shape, nnx.to_pure_dict(nnx.state(m, nnx.Param))) for m in (model, again)]
    assert shapes[0] == shapes[1]
    assert model.size_multiple >= 1 and len(model.input_range) == 2 and len(model.mean) == len(model.std)
    if "classes" in settings and name not in ("mobilenetv2", "wavenet") and "resnet" not in name and "vgg" not in name:
        assert out.shape == (*shape[:-1], settings["classes"])


COUNTS = {
    "vgg16": ({}, 138_357_544), "vgg16_bn": ({}, 138_365_992), "resnet18": ({}, 11_689_512),
    "resnet34": ({}, 21_797_672), "resnet50": ({}, 25_557_032), "resnet101": ({}, 44_549_160),
    "mobilenetv2": ({}, 3_504_872),
    "deeplabv3": ({"classes": 21}, 39_638_869),  # torchvision's deeplabv3_resnet50 without its auxiliary head
    "unet": ({"in_channels": 3, "classes": 1, "widths": (64, 128, 256, 512, 1024)}, 31_037_633),
    "segmentation": ({"architecture": "unet", "classes": 1, "upsampler": "nearest"}, 32_521_105),  # smp's Unet, ResNet-50
    "segnet": ({"classes": 12}, 29_446_220), "fcn": ({"classes": 21}, 134_489_759),
    "dcgan_generator": ({}, 3_576_704), "dcgan_discriminator": ({}, 2_765_568),
    "hifigan": ({}, 13_926_017), "espnet": ({"classes": 20, "q": 8}, 365_109),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in ALIKE | {"segmentation"} else []) for n in sorted(COUNTS)]
)
def test_full_size_has_the_published_number_of_parameters(name):
    settings, count = COUNTS[name]
    assert parameters(lambda: REGISTRY[name](**settings, rngs=rngs())) == count


@pytest.mark.parametrize("stride", [*(pytest.param(s, marks=pytest.mark.slow) for s in (32, 16)), 8])
def test_output_strides_by_dilation(stride):
    for make, size in ((lambda: ResNet(18, 0, width=2, output_stride=stride, rngs=rngs()), (65, 70)),):
        assert shape_of(make, 1, *size, 3)[1:3] == tuple(-(-n // stride) for n in size)
    model = nnx.eval_shape(lambda: ResNet(50, 0, width=2, output_stride=stride, multi_grid=(1, 2, 4), rngs=rngs()))
    rates = [block.conv2.dilation[0] for block in model.layer4.layers]
    assert rates == {32: [1, 2, 4], 16: [2, 4, 8], 8: [4, 8, 16]}[stride] and model.strides[-1] == stride


@pytest.mark.slow
def test_hybrid_rates_are_the_papers():
    model = nnx.eval_shape(lambda: REGISTRY["duc"](classes=5, encoder_width=0.05, rngs=rngs()))
    rates = [[b.conv2.dilation[0] for b in getattr(model.encoder, f"layer{i}").layers] for i in (3, 4)]
    assert rates == [[1, 2, 5, 9] * 5 + [1, 2, 5], [5, 9, 17]]


PRODUCT = [
    *(("unet", encoder, "transposed") for encoder in ("vgg16", "resnet18", "mobilenetv2")),
    *(("deeplabv3plus", "resnet18", how) for how in UPSAMPLERS),
]
# Every decoder with two encoders and two upsamplings in turn, and so each of these under some decoder: decoders see no
# more of an encoder than its strides and channels.
EVERY = [
    (a, ENCODERS[(2 * i + j) % len(ENCODERS)], "shuffle" if a == "duc" else UPSAMPLERS[(i + 2 * j) % len(UPSAMPLERS)])
    for i, a in enumerate(ARCHITECTURES)
    for j in range(2)
]


@pytest.mark.parametrize(
    "architecture, encoder, how",
    [*PRODUCT, *(pytest.param(*p, marks=pytest.mark.slow) for p in sorted({*EVERY} - {*PRODUCT}))],
)
def test_any_encoder_under_any_decoder_gives_the_images_size(architecture, encoder, how):
    def make():
        return segmentation(
            architecture, classes=5, encoder=encoder, in_channels=4, upsampler=how, encoder_width=0.05, width=8,
            rngs=rngs(),
        )  # fmt: skip

    assert shape_of(make, 1, 37, 51, 4) == (1, 37, 51, 5)


def test_refusals_name_what_there_is():
    for settings, words in (
        ({"architecture": "pspnet"}, "deeplabv3plus"),
        ({"architecture": "unet", "encoder": "vgg19"}, "vgg16_bn"),
        ({"architecture": "unet", "rates": (1, 2)}, "no dilated"),
        ({"architecture": "unet", "encoder": "mobilenetv2", "multi_grid": (1, 2, 4)}, "ResNets"),
        ({"architecture": "unet", "encoder": "resnet18", "output_stride": 12}, "output_stride=12"),
        ({"architecture": "unet", "upsampler": "spline"}, "bilinear"),
    ):
        with pytest.raises(ValueError, match=words):
            nnx.eval_shape(
                lambda settings=settings: Segmentation(
                    classes=3, encoder_width=0.05, **{"encoder": "resnet18", **settings}, rngs=rngs()
                )
            )  # noqa: E501
    with pytest.raises(ValueError, match="stride=4"):
        FCN(3, stride=4, rngs=rngs())
    with pytest.raises(ValueError, match="classes=4"):
        ESPNet(4, rngs=rngs())
    with pytest.raises(ValueError, match="power of two"):
        DCGANGenerator(size=48, rngs=rngs())
    with pytest.raises(ValueError, match="multiple of 16"):
        HiFiGAN(width=24, rngs=rngs())
    with pytest.raises(ValueError, match="depth=20"):
        ResNet(20, rngs=rngs())


def test_settings_are_whole_numbers_under_known_names():
    def unet(**settings):
        return nnx.eval_shape(lambda: UNet(np.int64(1), 2, **{"widths": np.asarray([2, 4]), **settings}, rngs=rngs()))

    model = unet(dtype=jnp.bfloat16)
    assert json.loads(json.dumps(model.config)) == {
        "in_channels": 1, "classes": 2, "widths": [2, 4], "rank": 2, "batch_norm": True, "dtype": "bfloat16",
        "param_dtype": "float32",
    }  # fmt: skip
    assert model.parameter_count == sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    for settings, error, words in (
        ({"rank": 2.0}, TypeError, "rank=2.0 must be an integer"),
        ({"widths": (2, 0)}, ValueError, "widths=0 must be at least 1"),
        ({"stride": 2}, TypeError, "UNet.*unexpected keyword argument 'stride'"),  # Conv's, not the network's
    ):
        with pytest.raises(error, match=words):
            unet(**settings)
    with pytest.raises(ValueError, match="classes=-1 must be at least 0"):
        ResNet(18, -1, rngs=rngs())


# ---------------------------------------------------------------------- WaveNet


@pytest.mark.slow
def test_wavenet_step_by_step_is_the_parallel_pass():
    model = WaveNet(8, residual=4, dilated=3, skip=5, end=6, layers=3, blocks=2, rngs=rngs())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 20, 8)), jnp.float32)

    @nnx.jit
    def both(model, x):
        def one(state, sample):
            y, state = model.step(sample[:, None], state)
            return state, y[:, 0]

        return model(x), jnp.moveaxis(jax.lax.scan(one, model.start(x), jnp.moveaxis(x, 1, 0))[1], 0, 1)

    whole, stepped = both(model, x)
    np.testing.assert_allclose(stepped, whole, rtol=1e-4, atol=1e-5)
    assert model.receptive_field == 15


@pytest.mark.slow
def test_wavenet_generates_what_the_parallel_pass_says():
    model = WaveNet(8, residual=4, dilated=3, skip=5, end=6, layers=2, blocks=2, rngs=rngs())
    first = jnp.asarray([[1, 5, 3], [2, 0, 7]])
    graph, state = nnx.split(model)
    made = jax.jit(lambda state: nnx.merge(graph, state).generate(first, 6))(state)
    whole = jnp.concatenate([first, made], 1)
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jax.nn.one_hot(whole, 8))
    np.testing.assert_array_equal(jnp.argmax(logits, -1)[:, 2:-1], made)
    drawn = jax.jit(lambda state: nnx.merge(graph, state).generate(first, 6, jax.random.key(1)))(state)
    assert drawn.shape == (2, 6) and np.any(drawn != made)


# ---------------------------------------------------------------------- learning


def losses(model, x, loss, steps=200, rate=1e-2):
    """The loss on one batch before each of `steps` steps of Adam."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(rate)

    @jax.jit
    def train(params, rest):
        def step(carry, _):
            params, state, rest = carry

            def value(params):
                model = nnx.merge(graph, params, rest, copy=True)  # variables of this trace
                return loss(model(x)), nnx.split(model, nnx.Param, ...)[2]

            (found, rest), grads = jax.value_and_grad(value, has_aux=True)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state, rest), found

        return jax.lax.scan(step, (params, optimizer.init(params), rest), None, length=steps)[1]

    return np.asarray(train(params, rest))


def one_batch(name):
    """A small model of the registry, a batch, and a loss of its result that the model can bring to nothing."""
    settings, shape = TINY[name]
    if "encoder_width" in settings:
        settings = {**settings, "encoder_width": 0.2}
    rng = np.random.default_rng(0)
    model = REGISTRY[name](**settings, rngs=rngs())
    model.train()
    x = jnp.asarray(rng.uniform(-1, 1, size=shape), jnp.float32)
    if name == "hifigan" or name == "dcgan_generator" or name == "fsrcnn":
        made = nnx.eval_shape(lambda m: m(x), model)
        y = jnp.asarray(rng.uniform(-0.5, 0.5, size=made.shape), jnp.float32)
        if name != "hifigan":  # noise has more numbers than these have weights
            y = jnp.broadcast_to(jnp.sin(jnp.arange(y.shape[2]))[:, None] / 2, y.shape)
        return model, x, lambda out: jnp.mean((out - y) ** 2)
    if name == "wavenet":
        x = jax.nn.one_hot(rng.integers(0, 8, size=shape[:-1]), 8)
    # Labels that follow from the image at the size that the network's finest features have.
    shape = nnx.eval_shape(lambda m: m(x), model).shape
    coarse = rng.integers(0, max(shape[-1], 2), size=(1, *(-(-n // 16) for n in shape[1:-1])))
    labels = np.resize(coarse, (shape[0], *coarse.shape[1:]))
    for axis in range(1, len(shape) - 1):
        labels = np.repeat(labels, 16, axis).take(range(shape[axis]), axis)
    labels = jnp.asarray(labels if len(shape) > 2 else rng.integers(0, shape[-1], size=shape[:-1]))
    if shape[-1] == 1:
        return model, x, lambda out: jnp.mean(optax.sigmoid_binary_cross_entropy(out[..., 0], labels))
    return model, x, lambda out: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, labels))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(REGISTRY) - ALIKE))
def test_the_loss_on_one_batch_falls_below_a_tenth(name):
    """Of all models, the left out ones too: benchmarks/one_batch.py."""
    found = losses(*one_batch(name))
    assert found[-1] < 0.1 * found[0]


@pytest.mark.slow
def test_a_small_unet_learns_one_batch():
    model = UNet(1, 2, widths=(4, 8), rngs=rngs())
    model.train()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 8, 1)), jnp.float32)
    labels = (x[..., 0] > 0).astype(jnp.int32)
    loss = lambda y: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(y, labels))  # noqa: E731
    found = losses(model, x, loss)
    assert found[-1] < 0.1 * found[0]


# ---------------------------------------------------------------------- run folders


def test_a_run_folder_of_any_model_by_its_settings_alone(tmp_path, capsys):
    """A network without classes too: its record names none."""
    from jaxconv.cli import main
    from jaxconv.convert import walk
    from jaxconv.train import load_run

    settings = {"features": 4, "shrunk": 3, "maps": 1, "channels": 1}
    model = nnx.eval_shape(lambda: REGISTRY["fsrcnn"](**settings, rngs=rngs()))
    rng = np.random.default_rng(0)
    tensors = {
        f"{layer.path}.{n.name}": rng.normal(size=n.shape).astype("f") for layer in walk(model) for n in layer.needs
    }
    np.savez(tmp_path / "w.npz", **tensors)
    words = ["--set", *(f"{key}={value}" for key, value in settings.items())]
    out = tmp_path / "run"
    assert main(["convert", str(tmp_path / "w.npz"), "--model", "fsrcnn", "--out", str(out), *words]) == 0
    loaded, run = load_run(out)
    assert run.preprocessing.class_names == () and run.preprocessing.channels == 1 and run.model_kwargs["maps"] == 1
    np.testing.assert_array_equal(loaded.map_1.bias[...], tensors["map_1.bias"])
    assert main(["convert", str(tmp_path / "w.npz"), "--model", "fsrcnn", "--out", str(out), "--set", "depth=3"]) == 1
    assert "depth" in capsys.readouterr().err


# ---------------------------------------------------------------------- freezing


def frozen_step(by_labels):
    """A small network with a frozen encoder before and after one step, as dotted name -> array."""

    def named():
        flat = nnx.to_flat_state(nnx.state(model))
        return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in flat}

    model = UNet(1, 2, widths=(2, 4), rngs=rngs())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 1)), jnp.float32)
    kept = freeze(model, "encoder")
    learns = nnx.Param if by_labels else kept
    before = named()
    graph, params, rest = nnx.split(model, learns, ...)
    optimizer = optax.adam(1e-2)
    if by_labels:
        optimizer = optax.multi_transform(
            {True: optimizer, False: optax.set_to_zero()}, lambda params: trainable(params, "encoder")
        )

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return jnp.mean((model(x) - 1) ** 2), nnx.split(model, learns, ...)[2]

        grads, rest = jax.grad(loss, has_aux=True)(params)
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params))[0]), rest

    nnx.update(model, *step(params, rest))
    return before, named()


@pytest.mark.parametrize("by_labels", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_frozen_encoder_keeps_its_parameters_and_its_statistics(by_labels):
    """By a filter of variables, and by labels of leaves for optax; in both the batch statistics of the encoder stay."""
    before, after = frozen_step(by_labels)
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert {name.split(".")[0] for name in moved} == {"ups", "decoder", "head"}
    assert {name.split(".")[0] for name in before if name.endswith(".var")} == {"encoder", "decoder"}


def test_freezing_names_modules_and_keeps_the_rest_in_training_mode():
    model = nnx.eval_shape(lambda: UNet(1, 2, widths=(2, 4), rngs=rngs()))
    model.eval()
    freeze(model, "encoder.0")
    modes = {p: m.use_running_average for p, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)}
    assert {p[:2] for p, still in modes.items() if still} == {("encoder", 0)} and not all(modes.values())
    with pytest.raises(ValueError, match="frozen='encode': nothing has that path; at the top there are decoder, enc"):
        freeze(model, "encode")
    params = nnx.state(model, nnx.Param)
    labels = trainable(params, "encoder", "head.bias")
    assert jax.tree.structure(labels) == jax.tree.structure(params)
    told = {p: v.get_value() for p, v in nnx.to_flat_state(labels)}
    assert {p for p, on in told.items() if not on} == {p for p in told if p[0] == "encoder" or p == ("head", "bias")}
    assert trainable(params) == jax.tree.map(lambda _: True, params)
    with pytest.raises(ValueError, match="frozen='body'"):
        trainable(params, "body")
