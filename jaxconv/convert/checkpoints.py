"""From a checkpoint file to a run folder that `jaxconv evaluate` and `jaxconv predict` need nothing beside."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from jaxconv.convert.loading import load_with_report
from jaxconv.convert.matching import Rename, load_tensors
from jaxconv.convert.names import arrange
from jaxconv.convert.report import Report
from jaxconv.convert.sources import Checkpoint, read_checkpoint
from jaxconv.models import REGISTRY
from jaxconv.train.record import Preprocessing
from jaxconv.train.runfolder import build_model, save_run, save_weights

# The classes of CamVid in the SegNet tutorial's labels, with its colours; pixels of the last are not scored.
_CAMVID = {
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128),
    "pavement": (60, 40, 222), "tree": (128, 128, 0), "sign": (192, 128, 128), "fence": (64, 64, 128),
    "car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192), "void": (0, 0, 0),
}  # fmt: skip


def camvid_preprocessing() -> Preprocessing:
    """The record of a network trained on CamVid's 11 classes and void: RGB of 0..1, 360 rows, 480 columns."""
    return Preprocessing(
        class_names=tuple(_CAMVID), palette=tuple(_CAMVID.values()), ignore_index=11, scale=1 / 255, size=(360, 480)
    )


def _preprocessing_of(network: Any) -> Preprocessing:
    """From what the network says of itself; without classes the record names none."""
    config = network.config
    names = tuple(f"class {i}" for i in range(config.get("classes", 0)))
    channels = config.get("in_channels", config.get("channels", 3))
    if channels not in (1, 3):  # no picture: the record is for pictures, and says nothing of other inputs
        return Preprocessing(class_names=names)
    low, high = network.input_range
    known = len(network.mean) == channels
    # The record scales first: (pixel / 255 * (high - low) + low - mean) / std.
    return Preprocessing(
        class_names=names, channels=channels, scale=(high - low) / 255, size_multiple=network.size_multiple,
        mean=tuple(m - low for m in (network.mean if known else (0.0,) * channels)), std=network.std if known else (),
    )  # fmt: skip


def _enet_classes(checkpoint: Checkpoint) -> int:
    """The published ENet's head's shape says how many classes there are."""
    head = checkpoint.tensors.get("transposed_conv.weight")
    return 12 if head is None or head.ndim != 4 else int(head.shape[1])


def convert_checkpoint(
    path: str | Path,
    model: str,
    out: str | Path,
    *,
    model_kwargs: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    convention: str = "torch",
    rename: Rename | None = None,
    fold_batch_norm: bool = False,
    dry_run: bool = False,
) -> Path | Report:
    """Convert a checkpoint into a run folder: weights, model description, preprocessing, class names, palette, ignored
    index; or into a weights file to train from (``jaxconv train --init``).

    Args:
        path: PyTorch state_dict, safetensors or .npz file (see `read_checkpoint`).
        model: name in `jaxconv.models.REGISTRY`, such as "enet".
        out: folder to make; it must not hold anything yet. A name that ends in .safetensors: a file of the weights
            alone under the model's names, which may lack what the checkpoint lacks, see `load`.
        model_kwargs: arguments of the model; they may be left out for "enet", whose checkpoint tells them.
        preprocessing: what to do with images and what the classes are. Default for an "enet" of 12 classes: CamVid's
            (RGB/255, 480 x 360, void ignored); else the pixel values / 255, for as many nameless classes as the model
            has. Channels, scale, mean and deviation are those that the network says of itself. The record of a network
            without classes (FSRCNN, a generator) names none: such a folder is for `load_run` and `explain`.
        convention: "torch" or "keras", how the file names and lays out its tensors.
        rename: see `load_tensors`.
        fold_batch_norm: store the network with its batch normalisation folded into the convolutions (see
            `jaxconv.nn.fold_batch_norm`); the folder says so, and whoever reads it gets the folded network.
        dry_run: match only, write nothing.

    Returns:
        The folder or weights file, or with `dry_run` the `Report`.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: `out` holds something.
        ValueError: a file that cannot be read, an unknown model, arguments it does not take, or tensors that are
            missing, unexpected or mis-shaped (the message lists all of them).

    Example:
        >>> convert_checkpoint("weights.pth", "enet", "runs/enet")  # doctest: +SKIP
        PosixPath('runs/enet')
    """
    if model not in REGISTRY:
        raise ValueError(f"no model is called {model!r}; models are: {', '.join(sorted(REGISTRY))}")
    checkpoint = read_checkpoint(path)
    published = model == "enet" and model_kwargs is None
    kwargs = {"classes": _enet_classes(checkpoint)} if published else dict(model_kwargs or {})
    record = camvid_preprocessing() if published and kwargs["classes"] == len(_CAMVID) else None
    # Abstract: no random number is drawn for parameters that the file is about to fill.
    network: Any = nnx.eval_shape(lambda: build_model(model, kwargs, nnx.Rngs(0)))
    if Path(out).suffix == ".safetensors":
        if fold_batch_norm:
            raise ValueError(f"fold_batch_norm=True: {out} is to train from, and folded networks are for evaluation")
        return _weights_file(checkpoint, network, Path(out), convention, rename, dry_run)
    tensors = arrange(network, checkpoint.tensors, convention)
    report = load_tensors(
        network, tensors, convention=convention, rename=rename, ordered=checkpoint.ordered, dry_run=dry_run,
        fold_batch_norm=fold_batch_norm, source=str(path),
    )  # fmt: skip
    if dry_run:
        return report
    config = network.config
    preprocessing = preprocessing or record or _preprocessing_of(network)
    network.eval()
    extra = {"converted_from": Path(path).name, "placed": len(report.placed), "folded": len(report.folded)}
    return save_run(
        Path(out), network, model_name=model, model_kwargs=config, preprocessing=preprocessing, extra=extra,
        fold_batch_norm=fold_batch_norm,
    )  # fmt: skip


def _weights_file(
    checkpoint: Checkpoint, network: Any, out: Path, convention: str, rename: Rename | None, dry_run: bool
) -> Path | Report:
    """The variables that the checkpoint has values for, and nothing else."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out, or remove it first")
    network, report = load_with_report(network, checkpoint, convention=convention, rename=rename, partial=True)
    if dry_run:
        return report
    placed = {p.target for p in report.placed}
    kept = [(path, v) for path, v in nnx.to_flat_state(nnx.state(network)) if ".".join(map(str, path)) in placed]
    for hint in report.hints:
        warnings.warn(hint, stacklevel=3)
    return save_weights(out, nnx.from_flat_state(kept))
