"""Published weights into a network in one line: other class counts, other bands and encoders alone included."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxconv.convert.layers import Layer, walk
from jaxconv.convert.matching import Rename, is_abstract, load_tensors
from jaxconv.convert.names import arrange
from jaxconv.convert.report import Report
from jaxconv.convert.sources import Checkpoint, read_checkpoint
from jaxconv.models.freezing import is_under

File = str | Path | Mapping[str, Any] | Checkpoint


def load(model: Any, file: File, *, convention: str = "torch", rename: Rename | None = None) -> Any:
    """Weights in one line: ``model = load(model, FILE)``.

    What the file may differ in, each said in a warning: the number of classes (the head stays as it was made), the
    number of bands (the first convolution's weights are added up for one band, repeated and scaled for more), and a
    file of an encoder alone (the decoder stays as it was made).

    Args:
        model: a network of `jaxconv.models`, or any NNX module; it may be abstract (from ``nnx.eval_shape``) where the
            file has all values, so that no random number is drawn.
        file: a file that `read_checkpoint` reads, or name -> array; names of torchvision, segmentation_models_pytorch
            and the original code of each network are known. Nothing in a file is executed.
        convention: "torch" or "keras".
        rename: see `load_tensors`.

    Returns:
        The model with its weights, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, tensors that are missing, unexpected or mis-shaped for another reason
            (the message lists all), or an abstract model of which the file leaves a part out.

    Example:
        >>> import numpy as np
        >>> from jaxconv.nn import Conv
        >>> layer = nnx.eval_shape(lambda: Conv(3, 8, (5, 5), rngs=nnx.Rngs(0)))
        >>> load(layer, {"weight": np.ones((8, 3, 5, 5)), "bias": np.zeros(8)}).kernel.shape
        (5, 5, 3, 8)
    """
    model, report = load_with_report(model, file, convention=convention, rename=rename)
    for hint in report.hints:
        warnings.warn(hint, stacklevel=2)
    return model


def load_with_report(
    model: Any, file: File, *, convention: str = "torch", rename: Rename | None = None, partial: bool = False
) -> tuple[Any, Report]:
    """`load` that returns the model and the `Report`, whose hints say what was adapted or left fresh, without warnings.

    Args:
        model, file, convention, rename: as for `load`.
        partial: an abstract model keeps without values what the file leaves out, instead of a ValueError.

    Returns:
        The model and the report.

    Raises:
        FileNotFoundError, ValueError: as `load`.

    Example:
        >>> import numpy as np
        >>> from jaxconv.nn import Conv
        >>> layer = nnx.eval_shape(lambda: Conv(1, 8, (5, 5), rngs=nnx.Rngs(0)))
        >>> layer, report = load_with_report(layer, {"weight": np.ones((8, 3, 5, 5)), "bias": np.zeros(8)})
        >>> report.hints
        ('the first convolution (the model itself) has 3 bands in the file and 1 here: its weights were added up',)
    """
    if isinstance(file, Mapping):
        file = Checkpoint(dict(file), True, Path("the mapping"))
    checkpoint = file if isinstance(file, Checkpoint) else read_checkpoint(file)
    options: dict[str, Any] = {"convention": convention, "rename": rename, "ordered": checkpoint.ordered}
    options["strict"] = False

    def fit(target: Any) -> tuple[dict[str, Any], Report]:
        tensors = arrange(target, checkpoint.tensors, convention)
        return tensors, load_tensors(target, tensors, dry_run=True, **options)

    target, inside, hints = model, "", []
    tensors, report = fit(model)
    encoder = getattr(model, "encoder", None)
    if report.missing and isinstance(encoder, nnx.Module) and hasattr(encoder, "levels"):
        # The file of a classifier, whose names begin where the encoder's do.
        alone, fits = fit(encoder)
        if len(fits.placed) >= len(report.placed) and not fits.missing:
            target, inside, tensors, report = encoder, "encoder.", alone, fits
            hints.append("the file holds the encoder alone: everything else is as it was made")
    tensors, fresh, more = _adapt(target, tensors, report, convention)
    final = load_tensors(target, tensors, dry_run=True, **options)
    missing = tuple(item for item in final.missing if not is_under(item[0], fresh))
    dataclasses.replace(final, missing=missing).raise_if_failed(str(checkpoint.path))
    placed = tuple(dataclasses.replace(p, target=f"{inside}{p.target}") for p in final.placed)
    if not partial and is_abstract(model):
        needed = [need.variable for layer in walk(model, convention) for need in layer.needs]
        if left := [name for name in needed if name not in {p.target for p in placed}]:
            raise ValueError(
                f"{checkpoint.path} has no values for {', '.join(left)}, and the model was made without any "
                "(nnx.eval_shape): make it with random streams"
            )
    load_tensors(target, tensors, **options)
    model.eval()
    return model, dataclasses.replace(final, placed=placed, hints=(*hints, *more))


def _adapt(
    model: Any, tensors: dict[str, Any], report: Report, convention: str
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The tensors with the first convolution adapted and other heads left out; the fresh heads; what to say."""
    hints, fresh, tensors = [], [], dict(tensors)
    heads, layers = tuple(getattr(model, "heads", ())), walk(model, convention)
    stem = _stem(layers)
    for name, shape, variable, needed in report.misshaped:
        axis = 1 if convention == "torch" else len(shape) - 2
        differs = [i for i, (there, here) in enumerate(zip(shape, needed)) if there != here]
        bands = len(shape) == len(needed) > 2 and differs == [axis]
        if bands and stem is not None and variable == stem.needs[0].variable:
            tensors[name] = _other_bands(np.asarray(tensors[name]), axis, needed[axis])
            how = "added up" if needed[axis] == 1 else "repeated in turn and scaled"
            hints.append(
                f"the first convolution ({stem.path or 'the model itself'}) has {shape[axis]} bands in the file and "
                f"{needed[axis]} here: its weights were {how}"
            )
        elif is_under(variable, heads):
            fresh.append(variable)
            del tensors[name]
    if fresh:
        hints.append(f"other classes than in the file: {', '.join(fresh)} left as made")
    # An encoder without its head.
    unused = [name for name, _ in report.unexpected if is_under(name, ("fc", "classifier", "head"))]
    if heads and unused and not any(is_under(layer.path, heads) for layer in layers):
        tensors = {name: a for name, a in tensors.items() if name not in unused}
        hints.append(f"the file's head is not used: {', '.join(unused)}")
    return tensors, fresh, hints


def _stem(layers: list[Layer]) -> Layer | None:
    return next((layer for layer in layers if layer.needs and layer.needs[0].variable.endswith("kernel")), None)


def _other_bands(weight: np.ndarray, axis: int, bands: int) -> np.ndarray:
    """The response to equal bands stays: a sum for one, repetition times 3/bands for more."""
    before = weight.shape[axis]
    if bands == 1:
        return weight.sum(axis, keepdims=True)
    return np.take(weight, np.arange(bands) % before, axis) * (before / bands)
