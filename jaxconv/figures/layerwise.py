"""How the receptive field grows along a network, and what share of it is used, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxconv._text import place_and_whole
from jaxconv.analysis import Gridding, gridding as find_gridding
from jaxconv.figures.fields import EFFECTIVE, MASK, NOMINAL
from jaxconv.figures.grid import INK
from jaxconv.figures.maps import by, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layers(what: Any, *args: Any) -> Figure:
    """Draw the receptive field after every layer: nominal and actual size, what share is used, how evenly.

    Args:
        what: a result of `analysis.gridding`, or a function, whose arguments follow.
        *args: the function's arguments, the image (or its shape) first.

    Returns:
        matplotlib Figure: sizes above (a dotted line is the image), coverage and evenness below; triangles mark the
        layers that open holes, and those that close them.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> def net(x):
        ...     for rate in (1, 2, 9):
        ...         x = jc.conv(x, jnp.ones((3, 1, 1)), padding="SAME", dilation=rate)
        ...     return x
        >>> layers(net, jax.ShapeDtypeStruct((1, 64, 1), jnp.float32)).axes[0].get_title()
        'the receptive field grows to 25 over 3 layers, 84 % of it is used'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = what if isinstance(what, Gridding) else find_gridding(what, *args)
    rows = (*found.layers, found.output)
    place = list(range(1, len(rows) + 1))
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    size_ax, share_ax = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    nominal = [max(row.nominal_size) for row in rows]
    seen = [max(row.size) for row in rows]
    size_ax.step(place, nominal, where="mid", color=NOMINAL, linewidth=4.5, label="nominal")
    size_ax.step(place, seen, where="mid", color=MASK, linewidth=1.6, label="seen in the middle of this input")
    edge = max(found.field.input_size)
    unit, whole = place_and_whole(len(found.field.input_size))
    if max(nominal) > 0.5 * edge:
        size_ax.axhline(edge, color=INK, linestyle=":", linewidth=1.2, label=f"the {whole}: {edge}")
    size_ax.set(ylabel=f"{unit}s, longest side", ylim=(0, None))
    share_ax.plot(place, [r.coverage for r in rows], color=MASK, marker="o", markersize=3.5, label="coverage")
    share_ax.plot(place, [r.evenness for r in rows], color=EFFECTIVE, linestyle="-.", label="evenness of the counts")
    for marker, chosen, label in (("v", "opens", "opens holes"), ("^", "closes", "closes holes")):
        at = [(p, r.coverage) for p, r in zip(place, rows, strict=True) if getattr(r, chosen)]
        if at:
            share_ax.plot(*zip(*at, strict=True), marker, color=INK, markersize=9, linestyle="none", label=label)
    share_ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    share_ax.set(xlabel="layer (the last is the output)", ylim=(0, 1.08), xlim=(0.4, len(rows) + 0.6))
    used = f"{100 * found.coverage:.0f} %" if found.coverage < 1 else "all"
    count = len(found.layers)
    size_ax.set_title(
        f"the receptive field grows to {by(found.output.nominal_size)} over {count} layer{'s' * (count != 1)}, "
        f"{used} of it is used",
        fontsize=11.5,
    )
    for ax in (size_ax, share_ax):
        style(ax)
        ax.legend(frameon=False, fontsize=9, loc="best")
    return figure
