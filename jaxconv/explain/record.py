"""The explanation as plain values for JSON: every number that the page shows."""

import dataclasses
import math
from fractions import Fraction
from importlib import import_module
from typing import Any

import jax
import numpy as np

from jaxconv.analysis.dilation.gridding import LayerGridding
from jaxconv.analysis.upsampling.checkerboard import LayerOverlap
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import findings


def record(found: Explanation) -> dict[str, Any]:
    """What is known about a network, as dicts, lists, strings and finite numbers.

    Args:
        found: what `explain` found.

    Returns:
        name, versions (jaxconv, jax), input_shape, assumed (sentences), input_size and output_size in pixels;
        receptive_field: size (nominal) and stride in input pixels;
        output: of the box that is seen the pixels used and in all, coverage, evenness, period; None where unknown;
        effective: area in pixels that holds 95.45 % of the gradient energy, ratio to the field, radius in pixels;
        checkerboard: pattern and spread in the output's units, score, counts, gradient_counts, gradient_score, period,
        probed;
        layers: one entry a row of the table, with the layer's part in the checkerboard;
        tiling: tile, align, before, after, crop and keep in pixels per axis, work relative to the whole image;
        findings: kind, title, text, fixes, code; failed: step -> why; seconds: step -> time.
        A number that is not finite is None.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> from jaxconv.explain.collect import explain
        >>> from jaxconv.explain.target import Target
        >>> net = lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=2, dilation=2)
        >>> made = record(explain(Target("net", net, (jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32),)), draws=1))
        >>> made["receptive_field"], made["output"]["used"]
        ({'size': [5, 5], 'stride': [1, 1]}, 9)
    """
    field, grid, board, effective = found.field, found.gridding, found.board, found.effective
    measured = ("pattern", "spread", "score", "counts", "gradient_counts", "gradient_score", "period", "probed")
    overlaps = found.overlaps
    return _plain({
        "name": found.target.name,
        "versions": {"jaxconv": import_module("jaxconv").__version__, "jax": jax.__version__},
        "input_shape": found.image_shape,
        "assumed": found.target.remarks,
        "input_size": field.input_size,
        "output_size": field.output_size,
        "receptive_field": {"size": field.size, "stride": field.stride},
        "output": grid and _seen(grid.output),
        "effective": effective
        and {"area": effective.area(), "ratio": effective.ratio, "radius": effective.radius},
        "checkerboard": board and {name: getattr(board, name) for name in measured},
        "layers": [_layer(row, overlaps.get(n)) for n, row in enumerate(grid.layers)] if grid else [],
        "tiling": found.tiling and dataclasses.asdict(found.tiling),
        "findings": [dataclasses.asdict(finding) for finding in findings(found)],
        "failed": found.failed,
        "seconds": found.seconds,
    })  # fmt: skip


def _seen(row: LayerGridding) -> dict[str, Any]:
    used = {"used": int((row.counts > 0).sum()), "total": row.counts.size}
    return used | {name: getattr(row, name) for name in ("size", "coverage", "evenness", "period")}


def _layer(row: LayerGridding, overlap: LayerOverlap | None) -> dict[str, Any]:
    names = ("name", "kind", "place", "kernel", "stride", "dilation", "base", "output_size", "jump", "nominal_size")
    board = overlap and {name: getattr(overlap, name) for name in ("counts", "gradient", "gain", "added")}
    made = {name: getattr(row, name) for name in (*names, "opens", "closes")}
    return made | _seen(row) | {"checkerboard": board}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bool | np.bool_ | str | None):
        return bool(value) if isinstance(value, np.bool_) else value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return float(value) if math.isfinite(value) else None
