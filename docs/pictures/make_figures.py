"""Draw what `jc.figures` can draw, for its page in the reference and for the heads of the guides.

Run from the top of the checkout: ``python docs/pictures/make_figures.py``. The photograph is scikit-image's
`astronaut`; the times are those of benchmarks/results/.
"""

import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image

import jaxconv as jc
from jaxconv import figures

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"


def save(figure, name, dpi=64):
    """Write a figure beside this script, with 64 colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    Image.open(drawn).convert("RGB").quantize(64).save(HERE / f"{name}.png", optimize=True)


def layer(x, rate=1, stride=1, k=3, out=4):
    w = jnp.ones((k, k, x.shape[-1], out)) / (k * k * x.shape[-1])
    return jax.nn.relu(jc.conv(x, w, stride=stride, padding=rate * (k // 2), dilation=rate))


def trunk(x):
    """A downsampling by four and three atrous layers with holes."""
    x = layer(layer(x, stride=2), stride=2)
    for rate in (2, 2, 2):
        x = layer(x, rate)
    return x


def stack(x):
    for rate in (1, 2, 4, 4):
        x = layer(x, rate)
    return x


def generator(x):
    for _ in range(2):
        x = jc.conv_transpose(x, jnp.ones((3, 3, 1, 1)), stride=2, padding=1)
    return x


def random_stack(x):
    for i in range(12):
        w = jax.random.normal(jax.random.key(i), (3, 3, x.shape[-1], 8)) / 6
        x = jax.nn.relu(jc.conv(x, w, padding=1))
    return x


def networks():
    """Training steps of whole networks as they are in lax, and accelerated."""
    record = json.loads((RESULTS / "networks-cpu.json").read_text())
    steps = {k.removesuffix(", training step"): v["seconds"] for k, v in record["networks"].items() if "training" in k}
    labels = {"lax": "as it is, jitted", "accelerate": "jc.accelerate of the same"}
    return _steps(steps, labels, f"{record['cores']}-core {record['device']}, {record['dtype']}, {record['date']}")


def accelerator():
    """Training steps of whole networks on a GPU, and PyTorch's."""
    record = json.loads((RESULTS / "accelerator-nvidia-h200.json").read_text())
    found = record["sections"]["networks"]
    steps = {row["what"]: row["seconds"] for row in found["rows"] if row["task"] == "training step"}
    labels = {"torch": "PyTorch", "jaxconv": "jaxconv"}
    return _steps(steps, labels, f"{record['device']}, {found['dtype']}, {record['date']}")


def _steps(steps, labels, title):
    """Two bars for each network: milliseconds of a training step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for shift, (name, label), colour in zip((-0.2, 0.2), labels.items(), ("0.6", "tab:blue"), strict=True):
        ax.barh(np.arange(len(steps)) + shift, [1e3 * s[name] for s in steps.values()], 0.38, label=label, color=colour)
    ax.set(yticks=range(len(steps)), yticklabels=list(steps), xscale="log", xlabel="ms a training step")
    ax.set_title(title)
    ax.invert_yaxis()
    ax.legend()
    return figure


def paddings():
    """What stands around a line of five elements in each padding mode."""
    from matplotlib.figure import Figure

    from jaxconv.figures import grid
    from jaxconv.padding import source_positions

    figure = Figure(figsize=(8.6, 2.7), layout="constrained")
    for ax, mode in zip(figure.subplots(2, 2).ravel(), ("zeros", "circular", "reflect", "replicate"), strict=True):
        at = source_positions(5, (3, 3), mode)
        inside = (np.arange(len(at)) >= 3) & (np.arange(len(at)) < 8)
        colours = np.where(inside, grid.INPUT, np.where(at < 0, grid.ZERO, grid.EXTRA)).astype(object)[None]
        grid.draw_grid(ax, colours, [["0" if i < 0 else "abcde"[i] for i in at]], title=mode)
    return figure


def model():
    """The receptive field of the U-Net along its layers."""
    from flax import nnx

    from jaxconv.models import UNet

    net = nnx.eval_shape(lambda: UNet(3, 12, rngs=nnx.Rngs(0)))  # its shapes are enough
    net.eval()
    return figures.layers(net, jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32))


def main():
    photograph = skimage.data.astronaut()[:256, 96:352].astype(np.float32)[None] / 255
    small = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    save(networks(), "networks")
    save(accelerator(), "accelerator")
    save(paddings(), "paddings")
    save(model(), "model")
    save(figures.receptive_field(trunk, photograph, index=(32, 32)), "receptive_field")
    save(figures.gridding([2, 2, 2], [1, 2, 3]), "gridding")
    save(figures.layers(stack, small), "layers")
    save(figures.overlap(3, stride=2), "overlap")
    save(figures.overlap(generator, jax.ShapeDtypeStruct((1, 24, 24, 1), jnp.float32)), "checkerboard")
    save(figures.usage_counts(stack, jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)), "counts")
    erf = jc.analysis.effective_receptive_field(random_stack, jnp.zeros((1, 48, 48, 3)), draws=4)
    save(figures.effective_receptive_field(erf), "effective")


if __name__ == "__main__":
    main()
