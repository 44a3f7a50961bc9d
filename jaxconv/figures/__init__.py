"""Figures and animations, drawn from the user's own operators and networks (needs matplotlib; GIFs need Pillow)."""

from typing import TYPE_CHECKING, Any

from jaxconv._extras import lazily, need

if TYPE_CHECKING:  # for editors and type checkers; `_HOME` is the same table for the interpreter
    from jaxconv.figures.animation import animate as animate
    from jaxconv.figures.counts import gridding as gridding, usage_counts as usage_counts
    from jaxconv.figures.fields import (
        effective_receptive_field as effective_receptive_field,
        receptive_field as receptive_field,
    )
    from jaxconv.figures.inverse import deconvolution as deconvolution
    from jaxconv.figures.layerwise import layers as layers
    from jaxconv.figures.matrix import fan as fan, matrix_pair as matrix_pair
    from jaxconv.figures.recipe import transpose_recipe as transpose_recipe
    from jaxconv.figures.spectrum import norm_convergence as norm_convergence, spectrum_plot as spectrum_plot
    from jaxconv.figures.units import patches as patches, visualisation as visualisation
    from jaxconv.figures.upsampling import overlap as overlap

_HOME = {
    "animate": "animation",
    "deconvolution": "inverse",
    "effective_receptive_field": "fields",
    "fan": "matrix",
    "gridding": "counts",
    "layers": "layerwise",
    "matrix_pair": "matrix",
    "norm_convergence": "spectrum",
    "overlap": "upsampling",
    "patches": "units",
    "receptive_field": "fields",
    "spectrum_plot": "spectrum",
    "transpose_recipe": "recipe",
    "usage_counts": "counts",
    "visualisation": "units",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - names load on first use, so that importing the package costs nothing


def __getattr__(name: str) -> Any:
    if name in _HOME:
        need("jaxconv.figures", "matplotlib")
    return lazily("jaxconv.figures", _HOME, name)
