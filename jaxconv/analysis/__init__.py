"""Explain a network from its JAX function: receptive field, gridding, rates, checkerboard, exact tiling, units."""

from typing import TYPE_CHECKING, Any

from jaxconv._extras import lazily

if TYPE_CHECKING:  # for editors and type checkers; `_HOME` is the same table for the interpreter
    from jaxconv.analysis.dilation.gridding import Gridding as Gridding, gridding as gridding
    from jaxconv.analysis.dilation.rates import (
        RateCheck as RateCheck,
        check_rates as check_rates,
        search_rates as search_rates,
    )
    from jaxconv.analysis.field.effective import (
        EffectiveField as EffectiveField,
        effective_receptive_field as effective_receptive_field,
    )
    from jaxconv.analysis.field.gradient import GradientField as GradientField
    from jaxconv.analysis.field.receptive import ReceptiveField as ReceptiveField, receptive_field as receptive_field
    from jaxconv.analysis.graph.nodes import GlobalOp as GlobalOp
    from jaxconv.analysis.graph.reader import NotUnderstood as NotUnderstood
    from jaxconv.analysis.tiling.crops import TilingRefused as TilingRefused
    from jaxconv.analysis.tiling.tiled import Tiled as Tiled, tiled as tiled
    from jaxconv.analysis.units.patches import Patch as Patch, strongest_patches as strongest_patches
    from jaxconv.analysis.units.visualise import (
        Visualisation as Visualisation,
        visualise as visualise,
        with_relu_rule as with_relu_rule,
    )
    from jaxconv.analysis.upsampling.checkerboard import Checkerboard as Checkerboard, checkerboard as checkerboard

_HOME = {
    "check_rates": "dilation.rates",
    "search_rates": "dilation.rates",
    "RateCheck": "dilation.rates",
    "receptive_field": "field.receptive",
    "ReceptiveField": "field.receptive",
    "GradientField": "field.gradient",
    "gridding": "dilation.gridding",
    "Gridding": "dilation.gridding",
    "tiled": "tiling.tiled",
    "Tiled": "tiling.tiled",
    "TilingRefused": "tiling.crops",
    "checkerboard": "upsampling.checkerboard",
    "Checkerboard": "upsampling.checkerboard",
    "effective_receptive_field": "field.effective",
    "EffectiveField": "field.effective",
    "visualise": "units.visualise",
    "Visualisation": "units.visualise",
    "with_relu_rule": "units.visualise",
    "strongest_patches": "units.patches",
    "Patch": "units.patches",
    "NotUnderstood": "graph.reader",
    "GlobalOp": "graph.nodes",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return lazily("jaxconv.analysis", _HOME, name)
