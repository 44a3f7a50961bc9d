"""Any model: linen modules, batch-norm folding, ONNX files, and networks made at random in PyTorch and Keras."""

import importlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxconv import nn
from jaxconv.convert import fold_batch_norm, load_linen, load_tensors, read_checkpoint, walk
from jaxconv.models import FSRCNN
from jaxconv.nn import linen as linen_layers


def random_tensors(model, seed=0):
    """A checkpoint in PyTorch's layout with whatever the model needs; variances are positive."""
    rng = np.random.default_rng(seed)
    needs = [(layer.path, need) for layer in walk(model) for need in layer.needs]
    low_high = {"running_var": (0.5, 1.5)}
    return {f"{path}.{n.name}": rng.uniform(*low_high.get(n.name, (-1.5, 1.5)), n.shape) for path, n in needs}


def call(model, x):
    return np.asarray(nnx.jit(lambda m, x: m(x))(model, x))


class Foldable(nnx.Module):
    def __init__(self, rngs):
        self.block = nn.ConvBlock(2, 4, (3, 3), padding=1, groups=2, rngs=rngs)
        self.rest = nnx.Sequential(
            nn.ConvTranspose(4, 6, (3, 2), stride=2, groups=2, rngs=rngs),
            nn.batch_norm(6, rngs=rngs),
            nn.PReLU(),
            nn.batch_norm(6, rngs=rngs),  # follows no convolution: stays
        )

    def __call__(self, x):
        return self.rest(self.block(x))


def test_folding_keeps_the_function():
    model = nnx.eval_shape(lambda: Foldable(nnx.Rngs(0)))
    load_tensors(model, random_tensors(model))
    model.eval()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 5, 2)), jnp.float32)
    before = call(model, x)
    assert nn.foldable(model) == [("block.norm", "block.conv"), ("rest.layers.1", "rest.layers.0")]
    assert fold_batch_norm(model) == 2
    assert model.block.norm is None and len(model.rest.layers) == 3 and isinstance(model.rest.layers[2], nnx.BatchNorm)
    np.testing.assert_allclose(call(model, x), before, rtol=2e-5, atol=2e-5)
    assert fold_batch_norm(model) == 0


def test_folding_flax_layers_and_leaving_shared_ones(x64):
    def make():
        types = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        shared = nn.Conv(3, 3, (1, 1), **types)
        return nnx.Sequential(
            nnx.Conv(2, 4, (3, 3), feature_group_count=2, **types), nn.batch_norm(4, **types),
            nnx.ConvTranspose(4, 6, (3, 2), (2, 2), **types), nn.batch_norm(6, **types),
            nnx.ConvTranspose(6, 5, (3, 2), (2, 2), transpose_kernel=True, use_bias=False, **types),
            nnx.BatchNorm(5, use_scale=False, **types),
            nnx.Linear(5, 3, **types), nnx.BatchNorm(3, use_bias=False, **types),
            shared, nn.batch_norm(3, **types), shared,
        )  # fmt: skip

    model = nnx.eval_shape(make)
    load_tensors(model, random_tensors(model))
    model.eval()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 3, 2)))
    before = call(model, x)
    assert fold_batch_norm(model) == 4 and len(model.layers) == 7
    np.testing.assert_allclose(call(model, x), before, rtol=0, atol=1e-12 * np.abs(before).max())


def test_folding_as_an_option_of_loading():
    make = lambda: nnx.eval_shape(lambda: Foldable(nnx.Rngs(0)))  # noqa: E731
    plain, folded, tensors = make(), make(), random_tensors(make())
    report = load_tensors(plain, tensors, dry_run=True, fold_batch_norm=True)
    assert "folded 2" in str(report) and "fold block.norm into block.conv" in str(report)
    assert isinstance(plain.block.norm, nnx.BatchNorm)
    load_tensors(plain, tensors)
    assert load_tensors(folded, tensors, fold_batch_norm=True).folded == report.folded
    assert "folded" not in str(load_tensors(make(), tensors))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3, 4, 2)), jnp.float32)
    plain.eval(), folded.eval()
    np.testing.assert_allclose(call(folded, x), call(plain, x), rtol=2e-5, atol=2e-5)
    del tensors["block.norm.running_var"]
    with pytest.raises(ValueError, match="folded into values[^$]*block.norm.var"):
        load_tensors(make(), tensors, strict=False, fold_batch_norm=True)


def test_a_folded_run_folder(tmp_path):
    """The folder says that it is folded; whoever reads it gets the folded network, with the same outputs."""
    from jaxconv.convert import convert_checkpoint
    from jaxconv.models import UNet
    from jaxconv.train import load_run

    kwargs = {"in_channels": 1, "classes": 2, "widths": [2]}
    tensors = random_tensors(nnx.eval_shape(lambda: UNet(**kwargs, rngs=nnx.Rngs(0))))
    np.savez(tmp_path / "w.npz", **{name: a.astype(np.float32) for name, a in tensors.items()})
    runs = {}
    for fold in (False, True):
        out = tmp_path / f"run{fold}"
        convert_checkpoint(tmp_path / "w.npz", "unet", out, model_kwargs=kwargs, fold_batch_norm=fold)
        runs[fold], run = load_run(out)
        assert run.fold_batch_norm is fold
    norms = [sum(isinstance(node, nnx.BatchNorm) for _, node in nnx.iter_modules(runs[fold])) for fold in runs]
    assert norms[0] > 0 == norms[1]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 1)), jnp.float32)
    np.testing.assert_allclose(call(runs[True], x), call(runs[False], x), rtol=1e-4, atol=1e-4)
    with pytest.raises(FileExistsError):
        convert_checkpoint(tmp_path / "w.npz", "unet", out, model_kwargs=kwargs)
    report = convert_checkpoint(
        tmp_path / "w.npz", "unet", tmp_path / "dry", model_kwargs=kwargs, fold_batch_norm=True, dry_run=True
    )
    assert len(report.folded) == norms[0] and not (tmp_path / "dry").exists()


class LinenNet(linen.Module):
    """Calls its layers in another order than the alphabet's, without names of its own."""

    @linen.compact
    def __call__(self, x):
        x = linen_layers.ConvTranspose(6, (3, 3), stride=2, padding=1, groups=2)(x, output_size=(10, 9))
        x = linen.BatchNorm(use_running_average=True, epsilon=1e-5)(x)
        x = linen_layers.Conv(4, (3, 3), dilation=2)(x)
        x = linen.PReLU()(x)
        x = linen.Conv(4, (1, 1), use_bias=False)(x)
        return linen.Dense(3)(x.mean((-3, -2)))


class NnxNet(nnx.Module):
    """The same network in NNX."""

    def __init__(self, rngs):
        self.up = nn.ConvTranspose(4, 6, (3, 3), stride=2, padding=1, groups=2, rngs=rngs)
        self.norm = nn.batch_norm(6, rngs=rngs)
        self.conv = nn.Conv(6, 4, (3, 3), dilation=2, rngs=rngs)
        self.act = nn.PReLU()
        self.mix = nn.Conv(4, 4, (1, 1), use_bias=False, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = self.conv(self.norm(self.up(x, output_size=(10, 9))))
        return self.dense(self.mix(self.act(x)).mean((-3, -2)))


def test_linen_modules_take_the_same_checkpoints():
    mine = nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0)))
    tensors = random_tensors(mine)
    load_tensors(mine, tensors)
    mine.eval()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 4)), jnp.float32)
    variables, report = load_linen(LinenNet(), (x,), tensors)
    assert report.ok and {p.by for p in report.placed} == {"structure"} and len(report.placed) == len(tensors)
    np.testing.assert_allclose(jax.jit(LinenNet().apply)(variables, x), call(mine, x), rtol=1e-5, atol=1e-5)

    del tensors["conv.bias"]
    with pytest.raises(ValueError, match=r"missing Conv_0.bias \(4,\)"):
        load_linen(LinenNet(), (x,), tensors)
    variables, report = load_linen(LinenNet(), (x,), tensors, dry_run=True)
    assert not report.ok and all(isinstance(v, jax.ShapeDtypeStruct) for v in jax.tree.leaves(variables))


def test_flax_transposed_convolutions_are_flipped_or_swapped():
    """flax's own layer computes a convolution of the dilated input: its kernel is ours flipped, unless it transposes it
    itself."""
    w = np.random.default_rng(0).normal(size=(3, 2, 4, 3)).astype(np.float32)  # PyTorch's (in, out, k, k)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 5, 3)), jnp.float32)
    make = lambda layer, **kwargs: nnx.eval_shape(  # noqa: E731
        lambda: layer(3, 2, (4, 3), use_bias=False, rngs=nnx.Rngs(0), **kwargs)
    )
    mine = make(nn.ConvTranspose, stride=(2, 1))
    for transposes in (False, True):
        peer = make(nnx.ConvTranspose, strides=(2, 1), padding="VALID", transpose_kernel=transposes)
        for model in (mine, peer):
            assert load_tensors(model, {"weight": w}).ok
        np.testing.assert_allclose(call(peer, x), call(mine, x), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- peers


@pytest.mark.parity
def test_a_random_grouped_dilated_transposed_pytorch_network_comes_over(x64):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    peer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, (3, 2), stride=2, padding=1, dilation=(1, 2), padding_mode="reflect"),
        torch.nn.PReLU(8),
        torch.nn.ConvTranspose2d(
            8, 12, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 0), groups=4, dilation=(2, 1)
        ),
        torch.nn.BatchNorm2d(12),
        torch.nn.ConvTranspose2d(12, 4, 3, groups=2, dilation=3, bias=False),
    ).double()
    for name, buffer in peer.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(12) + 0.5)  # values that float32 holds, as flax keeps them
    peer.eval()

    def make():
        types = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        return nnx.Sequential(
            nn.Conv(3, 8, (3, 2), stride=2, padding=1, dilation=(1, 2), padding_mode="reflect", **types),
            nn.PReLU(8, param_dtype=jnp.float64),
            nn.ConvTranspose(
                8, 12, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 0), groups=4, dilation=(2, 1), **types
            ),
            nn.batch_norm(12, **types),
            nn.ConvTranspose(12, 4, (3, 3), groups=2, dilation=3, use_bias=False, **types),
        )

    model = nnx.eval_shape(make)
    report = load_tensors(model, peer.state_dict())
    assert {p.by for p in report.placed} == {"name"} and len(report.placed) == 10
    model.eval()
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3))
    with torch.inference_mode():
        theirs = peer(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).movedim(1, -1).numpy()
    mine = call(model, jnp.asarray(x))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())
    assert fold_batch_norm(model) == 1
    np.testing.assert_allclose(call(model, jnp.asarray(x)), theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parity
def test_a_pytorch_network_in_eval_mode_comes_over_folded(x64):
    """Plain, grouped, dilated and transposed convolutions, each with batch normalisation, against PyTorch unfolded and
    against PyTorch's own folding."""
    torch = pytest.importorskip("torch")
    fuse = pytest.importorskip("torch.nn.utils.fusion").fuse_conv_bn_eval
    torch.manual_seed(4)
    layers = [
        (torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv,
         (3, 8, (3, 3), 1), {"padding": 1, "use_bias": False}),
        (torch.nn.Conv2d(8, 8, 3, groups=4, dilation=2), nn.Conv, (8, 8, (3, 3), 4), {"dilation": 2}),
        (torch.nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ConvTranspose, (8, 6, (4, 4), 1), {"stride": 2, "padding": 1}),
        (torch.nn.ConvTranspose2d(6, 9, (3, 2), (2, 3), groups=3, dilation=(2, 1)), nn.ConvTranspose,
         (6, 9, (3, 2), 3), {"stride": (2, 3), "dilation": (2, 1)}),
    ]  # fmt: skip
    norms = [torch.nn.BatchNorm2d(layer.out_channels, eps=1e-3) for layer, *_ in layers]
    for norm in norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data = torch.rand(norm.num_features) + 0.5  # values that float32 holds, as flax keeps them
    peer = torch.nn.Sequential(*(m for (layer, *_), norm in zip(layers, norms) for m in (layer, norm))).double().eval()

    def make():
        types = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        mine = []
        for _, kind, (i, o, k, g), settings in layers:
            mine += [kind(i, o, k, groups=g, **settings, **types), nn.batch_norm(o, epsilon=1e-3, **types)]
        return nnx.Sequential(*mine)

    model = nnx.eval_shape(make)
    assert len(load_tensors(model, peer.state_dict(), fold_batch_norm=True).folded) == 4
    assert len(model.layers) == 4
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3))
    with torch.inference_mode():
        theirs = peer(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).movedim(1, -1).numpy()
        fused = fuse(peer[0], peer[1])
    np.testing.assert_allclose(call(model, jnp.asarray(x)), theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())
    first = model.layers[0]
    np.testing.assert_allclose(first.kernel[...], fused.weight.detach().permute(2, 3, 1, 0), atol=1e-12)
    np.testing.assert_allclose(first.bias[...], fused.bias.detach(), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parity
def test_a_random_keras_network_with_same_padding_comes_over(monkeypatch):
    """Keras 3 computes on JAX here: its own layers, rules of size and names of variables."""
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    try:
        keras = importlib.import_module("keras")
    except ImportError:
        pytest.skip("keras is not installed (pip install keras)")
    if keras.backend.backend() != "jax":
        pytest.skip(f"keras was imported with the backend {keras.backend.backend()}; this test needs jax")
    keras.utils.set_random_seed(5)
    layers = keras.layers
    peer = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(8, (3, 4), strides=2, padding="same", name="conv", bias_initializer="random_normal"),
            layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal", name="act"),
            layers.BatchNormalization(
                name="norm", moving_mean_initializer="random_normal", beta_initializer="random_normal", epsilon=1e-5
            ),
            layers.Conv2D(8, 3, dilation_rate=2, padding="same", groups=2, name="atrous"),
            layers.Conv2DTranspose(4, 4, strides=2, padding="same", name="up", bias_initializer="random_normal"),
        ]
    )

    def make():
        rngs = nnx.Rngs(0)
        return {
            "conv": nn.Conv(3, 8, (3, 4), stride=2, padding="SAME", rngs=rngs),
            "act": nn.PReLU(8),
            "norm": nn.batch_norm(8, rngs=rngs),
            "atrous": nn.Conv(8, 8, (3, 3), dilation=2, padding="SAME", groups=2, rngs=rngs),
            "up": nn.ConvTranspose(8, 4, (4, 4), stride=2, padding="SAME", rngs=rngs),
        }

    class Net(nnx.Module):
        def __init__(self):
            for name, layer in make().items():
                setattr(self, name, layer)

        def __call__(self, x):
            for name in ("conv", "act", "norm", "atrous", "up"):
                x = getattr(self, name)(x)
            return x

    model = nnx.eval_shape(Net)
    tensors = {variable.path: np.asarray(variable.value) for variable in peer.variables}
    report = load_tensors(model, tensors, convention="keras")
    assert len(report.placed) == 11
    model.eval()
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    theirs = np.asarray(peer(x, training=False))
    np.testing.assert_allclose(call(model, jnp.asarray(x)), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parity
def test_onnx_initialisers_are_read_in_the_order_of_the_nodes(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    model = nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0)))
    tensors = {name: a.astype(np.float32) for name, a in random_tensors(model).items()}
    stored = {**tensors, "act.weight": tensors["act.weight"].reshape(-1, 1, 1)}
    norm = [f"norm.{role}" for role in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up.weight", "up.bias"], ["a"]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"]),
        helper.make_node("Conv", ["b", "conv.weight", "conv.bias"], ["c"]),
        helper.make_node("PRelu", ["c", "act.weight"], ["d"]),
        helper.make_node("Conv", ["d", "onnx::Conv_7"], ["e"], name="/mix/Conv"),
        helper.make_node("Gemm", ["e", "dense.weight", "dense.bias"], ["y"], transB=1),
    ]  # fmt: skip
    stored["onnx::Conv_7"] = stored.pop("mix.weight")
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    initialisers = [numpy_helper.from_array(a, name) for name, a in sorted(stored.items())]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], initialisers)
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")

    checkpoint = read_checkpoint(tmp_path / "net.onnx")
    assert checkpoint.ordered and list(checkpoint.tensors)[:2] == ["up.weight", "up.bias"]
    report = load_tensors(model, checkpoint.tensors, rename={"mix.Conv": "mix"})
    assert report.ok
    np.testing.assert_array_equal(model.up.kernel[...], tensors["up.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.dense.kernel[...], tensors["dense.weight"].T)
    np.testing.assert_array_equal(model.mix.kernel[...], tensors["mix.weight"].transpose(2, 3, 1, 0))
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x09 not a model")
    with pytest.raises(ValueError, match="cut.onnx cannot be read as ONNX"):
        read_checkpoint(tmp_path / "cut.onnx")


# ---------------------------------------------------------------------- published weights


def luma_chroma(rgb):
    """Full-range YCbCr of 8-bit RGB, truncated to 8 bits and clipped to the ranges of studio swing."""
    r, g, b = np.moveaxis(rgb.astype(np.float64), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb = 128 - 0.168736 * r - 0.331264 * g + 0.5 * b
    cr = 128 + 0.5 * r - 0.418688 * g - 0.081312 * b
    planes = [(y, 235), (cb, 240), (cr, 240)]
    return np.stack([plane.clip(0, 255).astype(np.uint8).clip(16, high) for plane, high in planes], -1) / np.float32(
        255
    )


def blur(image, sigma=0.3):
    """A 3-tap Gaussian along both axes, reflected at the border, rounded to 8 bits."""
    taps = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    x = image.astype(np.float64)
    for axis in (0, 1):
        n = x.shape[axis]
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(3)], "reflect")
        x = sum(t * np.take(padded, range(i, i + n), axis) for i, t in enumerate(taps))
    return np.rint(x).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.shared_data
def test_fsrcnn_reaches_its_psnr_on_set5(shared_data):
    """38.7619 dB over the three YCbCr channels: measured with PyTorch for the same weights and images."""
    pytest.importorskip("torch", reason="reads the published PyTorch file")
    from PIL import Image

    folder = shared_data / "fsrcnn"
    if not (folder / "FSRCNN-x2.pt").is_file():
        pytest.skip("shared/data/fsrcnn (FSRCNN weights and Set5) is missing")
    model = nnx.eval_shape(lambda: FSRCNN(2, rngs=nnx.Rngs(0)))
    assert len(load_tensors(model, read_checkpoint(folder / "FSRCNN-x2.pt").tensors).placed) == 20
    ratios = []
    for low in sorted((folder / "set5_x2" / "data").glob("*.png")):
        high = folder / "set5_x2" / "labels" / low.name.replace("LR", "HR")
        x = luma_chroma(blur(np.asarray(Image.open(low).convert("RGB"))))
        target = luma_chroma(np.asarray(Image.open(high).convert("RGB")))
        y = call(model, jnp.asarray(x)[None])[0].clip(0, 1)
        ratios.append(-10 * np.log10(np.mean((y - target) ** 2, dtype=np.float64)))
    assert len(ratios) == 5 and abs(np.mean(ratios) - 38.7619) < 0.01, ratios
