"""Draw the README's picture: what three stacked 3x3 atrous convolutions see, for two choices of rates.

Run from the top of the checkout: ``python docs/pictures/make_usage_counts.py``. The counts are the transposed
convolution of a single one with kernels of ones: entry (a, b) is the number of paths from input pixel (a, b) to the
output pixel in the middle.
"""

import pathlib

import jax.numpy as jnp
import matplotlib
import numpy as np

import jaxconv as jc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of backend)
from matplotlib.colors import ListedColormap, SymLogNorm  # noqa: E402

SCHEDULES = ((2, 2, 2), (1, 2, 3))


def usage_counts(rates):
    """Paths from each input pixel to one output pixel through 3x3 convolutions of these rates, first layer first."""
    counts = jnp.ones((1, 1, 1))
    for rate in reversed(rates):
        counts = jc.conv_transpose(counts, jnp.ones((3, 3, 1, 1)), dilation=rate)
    return np.asarray(counts[..., 0]).round().astype(int)


def draw(path):
    """Write the picture to `path`."""
    used = plt.get_cmap("viridis")(np.linspace(0.25, 1, 255))
    colours = ListedColormap(np.vstack([[1, 1, 1, 1], used]))
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
    for axis, rates in zip(axes, SCHEDULES):
        counts = usage_counts(rates)
        axis.pcolormesh(counts, cmap=colours, norm=SymLogNorm(1, vmin=0, vmax=49), edgecolors="0.85", linewidth=0.5)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                shade = "white" if count < 6 else "black"
                axis.text(column + 0.5, row + 0.5, count, ha="center", va="center", fontsize=8, color=shade)
        height, width = counts.shape
        axis.set_title(f"rates {list(rates)}: sees {height}x{width}, uses {(counts > 0).sum()} of {counts.size}")
        axis.set(aspect="equal", xticks=[], yticks=[])
        axis.invert_yaxis()
    figure.suptitle("How often one output of three atrous 3x3 convolutions uses each input pixel")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    draw(pathlib.Path(__file__).with_name("usage_counts.png"))
