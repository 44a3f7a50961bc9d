"""Find for each layer of a model its tensors in a checkpoint: by name where names agree, else by structure."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.convert.layers import Layer, Need, walk
from jaxconv.convert.norms import PARTS, join_normalised
from jaxconv.convert.report import Placement, Report
from jaxconv.convert.sources import torch_values
from jaxconv.nn.folding import fold_batch_norm as fold, foldable

Rename = Mapping[str, str] | Callable[[str], str]
# PyTorch counts the batches that batch normalisation has seen; flax has no such number.
_COUNTERS = ("num_batches_tracked", "seed_generator_state")
# Path parts that containers add: nnx.Sequential keeps its layers in `layers`, DataParallel wraps a model in `module`.
_WRAPPERS = ("layers", "module")


@dataclasses.dataclass(frozen=True)
class _Source:
    """The tensors of one layer of a checkpoint: tensor name within the layer -> full name."""

    path: str
    names: dict[str, str]

    def signature(self, tensors: Mapping[str, np.ndarray]) -> tuple:
        return tuple(sorted((short, tuple(tensors[name].shape)) for short, name in self.names.items()))


def load_tensors(
    model: nnx.Module,
    tensors: Mapping[str, Any],
    *,
    convention: str = "torch",
    rename: Rename | None = None,
    ordered: bool = True,
    strict: bool = True,
    dry_run: bool = False,
    fold_batch_norm: bool = False,
    source: str = "the checkpoint",
) -> Report:
    """Place the tensors of a checkpoint in a model, each in its layer's layout.

    Weights that are stored in parts (weight and spectral normalisation) are joined first: see `join_normalised`.

    Layers are matched by name (``encoder.0.conv`` with ``encoder.0.conv``; containers' ``layers`` and ``module`` do not
    count). Where no name agrees they are matched by structure: of the layers that need tensors of the same names and
    shapes, the first in the checkpoint goes to the first defined in the model, the second to the second, and so on.

    Args:
        model: an NNX module; its variables are overwritten, and may be abstract (from ``nnx.eval_shape``).
        tensors: name -> array, as a PyTorch state_dict (values with ``.numpy()`` too) or Keras variables by path.
        convention: "torch" (weight, bias, running_mean, running_var; kernels with channels first) or "keras" (kernel,
            bias, gamma, beta, moving_mean, moving_variance; kernels with channels last).
        rename: for layers that are called otherwise in the model: a mapping from the checkpoint's layer paths (or their
            beginnings) to the model's, or a function of a tensor's name.
        ordered: whether the order of `tensors` is the order of definition. If not (safetensors sorts), layers are
            matched by structure only where that is unambiguous.
        strict: whether anything that does not match is an error; otherwise what matches is placed.
        dry_run: only report; the model stays as it is.
        fold_batch_norm: afterwards fold each batch normalisation that directly follows a convolution into it (see
            `jaxconv.nn.fold_batch_norm`): the same function in evaluation mode, with fewer parameters.
        source: name of the checkpoint for messages.

    Returns:
        The `Report`: what was placed where, how each was matched, and what was folded.

    Raises:
        ValueError: `strict` and something is missing, unexpected or mis-shaped (the message lists all of it); an
            unknown convention; `fold_batch_norm` with tensors missing for an abstract model.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from jaxconv.nn import Conv
        >>> layer = Conv(3, 8, (5, 5), rngs=nnx.Rngs(0))
        >>> print(load_tensors(layer, {"weight": np.ones((8, 3, 5, 5)), "bias": np.zeros(8)}))
        placed 2, missing 0, unexpected 0, mis-shaped 0, ignored 0
          weight (8, 3, 5, 5) -> kernel (5, 5, 3, 8)
          bias (8,) -> bias (8,)
    """
    report = place(
        walk(model, convention), tensors, rename=rename, ordered=ordered, strict=strict, dry_run=dry_run, source=source
    )
    if not fold_batch_norm:
        return report
    report = dataclasses.replace(report, folded=tuple(foldable(model)))
    if not dry_run:
        if (empty := [name for name, _ in report.missing]) and is_abstract(model):
            listed = ", ".join(empty)
            raise ValueError(f"batch normalisation can only be folded into values, and these have none: {listed}")
        fold(model)
    return report


def is_abstract(model: nnx.Module) -> bool:
    """Whether some variable has a shape and no values, as from ``nnx.eval_shape``."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))


def place(
    layers: list[Layer],
    tensors: Mapping[str, Any],
    *,
    rename: Rename | None,
    ordered: bool,
    strict: bool,
    dry_run: bool,
    source: str,
) -> Report:
    """`load_tensors` for layers that have been found already, of whatever kind of module."""
    arrays = join_normalised({name: _as_numpy(name, value) for name, value in tensors.items()})
    sources, ignored = _group(arrays, rename)
    report = _report(layers, sources, _pair(layers, sources, arrays, ordered), arrays, ignored, ordered)
    if strict and not dry_run:
        report.raise_if_failed(source)
    if not dry_run:
        _write(layers, report, arrays)
    return report


def _as_numpy(name: str, value: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise ValueError(f"tensors are placed by names, and {name!r} is {type(name).__name__}")
    array = torch_values(name, value) if hasattr(value, "detach") else np.asarray(value)
    # Keras stores the slopes of a PReLU with the axes that they are shared along: (1, 1, C).
    return array.reshape(-1) if name.removesuffix(":0").endswith("/alpha") else array


def _group(arrays: Mapping[str, np.ndarray], rename: Rename | None) -> tuple[dict[str, _Source], list[str]]:
    """Tensors by layer, in order of appearance; counters apart."""
    groups: dict[str, _Source] = {}
    ignored = []
    for name in arrays:
        path, _, short = _renamed(name.replace("/", "."), rename).rpartition(".")
        if short in _COUNTERS:
            ignored.append(name)
            continue
        path = canonical(path)
        groups.setdefault(path, _Source(path, {})).names[short.removesuffix(":0")] = name
    return groups, ignored


def _renamed(name: str, rename: Rename | None) -> str:
    if rename is None:
        return name
    if callable(rename):
        return rename(name)
    fits = [old for old in rename if name == old or name.startswith(old + ".")]
    if not fits:
        return name
    longest = max(fits, key=len)
    return (rename[longest] + name[len(longest) :]).lstrip(".")


def canonical(path: str) -> str:
    """A layer's path without what containers add."""
    return ".".join(part for part in path.split(".") if part and part not in _WRAPPERS)


def _pair(
    layers: list[Layer], sources: dict[str, _Source], arrays: Mapping[str, np.ndarray], ordered: bool
) -> dict[str, tuple[str, str]]:
    """Layer path -> (source path, how the two were matched)."""
    pairs = {layer.path: (name, "name") for layer in layers if (name := canonical(layer.path)) in sources}
    if 2 * len(pairs) >= len(layers):
        # Where most names agree, a layer without its name is more likely a mistake than a matter of style.
        return pairs
    taken = {name for name, _ in pairs.values()}
    mine, theirs = defaultdict(list), defaultdict(list)
    for layer in layers:
        if layer.path not in pairs:
            mine[layer.signature].append(layer.path)
    for name, group in sources.items():
        if name not in taken:
            theirs[group.signature(arrays)].append(name)
    for signature, paths in mine.items():
        if ordered or len(paths) == len(theirs[signature]) == 1:
            pairs |= {path: (name, "structure") for path, name in zip(paths, theirs[signature], strict=False)}
    return pairs


def _report(layers, sources, pairs, arrays, ignored, ordered) -> Report:
    placed, missing, misshaped = [], [], []
    used: set[str] = set(ignored)
    for layer in layers:
        path, by = pairs.get(layer.path, (None, ""))
        names = {} if path is None else sources[path].names
        for need in layer.needs:
            name = names.get(need.name)
            if name is None:
                missing.append((need.variable, need.shape))
                continue
            used.add(name)
            shape = tuple(arrays[name].shape)
            if shape != need.shape:
                misshaped.append((name, shape, need.variable, need.shape))
            else:
                placed.append(Placement(name, need.variable, shape, need.target_shape, by))
    unexpected = [(name, tuple(a.shape)) for name, a in arrays.items() if name not in used]
    hints = _hints(
        missing, unexpected, ordered, {name: group for group in sources.values() for name in group.names.values()}
    )
    return Report(*map(tuple, (placed, missing, unexpected, misshaped, ignored, hints)))


def _hints(missing, unexpected, ordered: bool, group_of: Mapping[str, _Source]) -> list[str]:
    shapes = defaultdict(list)
    for name, shape in unexpected:
        shapes[shape].append(name)
    needed = [shape for _, shape in missing]
    fits = [(v, shapes[s][0]) for v, s in missing if len(shapes.get(s, ())) == 1 and needed.count(s) == 1]
    hinted, over = {name for _, name in fits}, {name for name, _ in unexpected}
    hints, together = [], "store the weight that they make together"
    for variable, name in fits:
        # What else its layer holds without a place may change its meaning: a scale, a norm, a low-rank addition.
        beside = [n for n in group_of[name].names.values() if n in over and n not in hinted] if name in group_of else []
        fit = f"{name} has the shape that {variable} needs"
        if name.endswith(PARTS):
            hints.append(f"{name} is one part of a normalised weight, whose others are not in the file: {together}")
        elif beside:
            hints.append(f"{fit}, but {', '.join(beside)} of the same layer would be dropped: {together}")
        else:
            hints.append(f"{fit}; if it is the same, say so with rename")
    if not ordered and missing and unexpected:
        hints.append("the file does not keep the order of the layers: layers of equal shapes are matched by name only")
    return hints


def _write(layers: list[Layer], report: Report, arrays: Mapping[str, np.ndarray]) -> None:
    needs: dict[str, Need] = {need.variable: need for layer in layers for need in layer.needs}
    for placement in report.placed:
        need = needs[placement.target]
        dtype = need.slot.get_value().dtype
        need.slot.set_value(jnp.asarray(need.to_model(arrays[placement.source]), dtype))
