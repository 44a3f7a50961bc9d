"""A run is a folder: all that evaluate and predict need, written so that no moment leaves it half-done.

===================== =================================================================================
config.json           model name and arguments, the training config, the version that wrote it
preprocessing.json    `Preprocessing`: scaling, class names, palette, ignored index
weights.safetensors   every parameter and batch statistic under its dotted path ("encoder.0.conv.kernel")
metrics.csv           training only: one row for each logged step
checkpoints/          training only: orbax, the newest two
best.safetensors      training only: as weights.safetensors, at the step with the best val mIoU, which its header names
results.json          training only: the scores at the end
picture.png           training only: input, label, prediction
confusion.png         training only: which classes are taken for which
curves.png            training only: metrics.csv drawn
samples/              training only: what the network made of four images, each time that it was scored
===================== =================================================================================

A folder is finished when it has weights.safetensors, which is written last.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv._import import module_of
from jaxconv.train.files import read_json, write_beside, write_json
from jaxconv.train.record import Preprocessing

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder says beside its weights.

    Args:
        folder: where it is.
        model_name: key of ``jaxconv.models.REGISTRY``, or MODULE:NAME or FILE.py:NAME of one's own.
        model_kwargs: the model's arguments, without ``rngs``.
        preprocessing: see `Preprocessing`.
        train: the training config as a dict, or None for converted weights.
        extra: what the writer wished to note (for a conversion: the source file).
        fold_batch_norm: whether the weights are those of the model after `jaxconv.nn.fold_batch_norm`.
    """

    folder: Path
    model_name: str
    model_kwargs: dict[str, Any]
    preprocessing: Preprocessing
    train: dict[str, Any] | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    fold_batch_norm: bool = False


def build_model(name: str, kwargs: dict[str, Any], rngs: nnx.Rngs) -> nnx.Module:
    """Makes the model ``REGISTRY[name](**kwargs, rngs=rngs)``, or that of MODULE:NAME or FILE.py:NAME.

    Raises:
        ValueError: no such model, or arguments that it does not take; the message lists what there is.
    """
    from jaxconv.models import REGISTRY

    if name not in REGISTRY and ":" not in name:
        listed = ", ".join(sorted(REGISTRY))
        raise ValueError(f"no model is called {name!r}; models are: {listed}; your own is MODULE:NAME or FILE.py:NAME")
    make = REGISTRY[name] if name in REGISTRY else own_attribute(name)
    if hasattr(make, "step"):
        raise ValueError(f"{name!r} is a training of one's own, not a network: its weights are its own affair")
    try:
        model = make(**kwargs, rngs=rngs)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"model {name!r} does not take {kwargs}: {error}") from error
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model {name!r} gives a {type(model).__name__}, not a flax.nnx.Module")
    return model


@functools.cache
def own_attribute(name: str) -> Any:
    """What MODULE:NAME or FILE.py:NAME is; a ValueError where it cannot be called and is no step."""
    place, _, attribute = name.rpartition(":")
    make = getattr(module_of(place), attribute, None)
    if not callable(make) and not hasattr(make, "step"):
        raise ValueError(f"model {name!r}: {place} has no function or class {attribute!r}")
    return make


def is_finished(folder: str | Path) -> bool:
    """Whether the folder holds final weights."""
    return (Path(folder) / "weights.safetensors").is_file()


def write_description(run: Run) -> None:
    """Writes preprocessing.json and then config.json (whose presence says that the folder is a run folder)."""
    model = {"name": run.model_name, "kwargs": run.model_kwargs}
    config: dict[str, Any] = {"format": FORMAT, "model": model}
    config["model"] |= {"fold_batch_norm": True} if run.fold_batch_norm else {}
    config |= {"train": run.train} if run.train is not None else {}
    config |= {"extra": run.extra} if run.extra else {}
    write_json(run.folder / "preprocessing.json", run.preprocessing.to_dict())
    write_json(run.folder / "config.json", config)


def read_description(folder: str | Path) -> Run:
    """Reads config.json and preprocessing.json.

    Raises:
        FileNotFoundError: no such folder, or no run folder; the message says what is missing.
        ValueError: a file that cannot be read, or a format newer than this version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"run folder {folder} does not exist")
    for name in ("config.json", "preprocessing.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a run folder: {folder / name} is missing")
    config = read_json(folder / "config.json")
    model = config.get("model")
    fits = isinstance(model, dict) and set(model) - {"fold_batch_norm"} == {"name", "kwargs"}
    fits = fits and isinstance(model["name"], str) and isinstance(model["kwargs"], dict)  # type: ignore[index]
    fits = fits and isinstance(config.get("train", {}), dict) and isinstance(config.get("extra", {}), dict)
    if config.get("format") != FORMAT or not isinstance(model, dict) or not fits:
        raise ValueError(
            f"{folder / 'config.json'}: format {config.get('format')!r:.50} is not the format {FORMAT} read "
            f"here, or its model "
            "is not a name with arguments"
        )
    record = Preprocessing.from_dict(read_json(folder / "preprocessing.json"), str(folder / "preprocessing.json"))
    folded = bool(model.get("fold_batch_norm", False))
    return Run(folder, model["name"], model["kwargs"], record, config.get("train"), config.get("extra", {}), folded)


def save_run(
    folder: str | Path,
    model: nnx.Module,
    *,
    model_name: str,
    model_kwargs: dict[str, Any],
    preprocessing: Preprocessing,
    extra: dict[str, Any] | None = None,
    fold_batch_norm: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes a finished run folder from a model: what a converter of weights calls.

    Args:
        folder: made if missing.
        model: its parameters and batch statistics are stored, random streams are not.
        model_name: key of ``jaxconv.models.REGISTRY``.
        model_kwargs: JSON values such that ``REGISTRY[model_name](**model_kwargs, rngs=...)`` makes the model again.
        preprocessing: see `Preprocessing`.
        extra: notes for config.json, JSON values.
        fold_batch_norm: say that the model has been through `jaxconv.nn.fold_batch_norm`, which a reader then repeats.
        overwrite: replace the weights of a finished run folder.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder is not empty (or finished, without ``overwrite``).
    """
    folder = Path(folder)
    if folder.exists() and any(not p.name.startswith((".tmp.", ".lock")) for p in folder.iterdir()):
        if not (folder / "config.json").is_file():
            raise FileExistsError(f"{folder} is not empty and not a run folder; choose another --out")
        if not overwrite:
            raise FileExistsError(f"{folder} already holds a run; choose another --out, or remove it first")
    write_description(Run(folder, model_name, model_kwargs, preprocessing, None, extra or {}, fold_batch_norm))
    save_weights(folder / "weights.safetensors", nnx.state(model))
    return folder


def load_run(folder: str | Path) -> tuple[nnx.Module, Run]:
    """Reads a finished run folder.

    Returns:
        The model, in evaluation mode, and what the folder says beside its weights.

    Raises:
        FileNotFoundError: the folder, a file of it or the final weights are missing.
        ValueError: a file is truncated or does not fit the model; the message names the file and the tensors.

    >>> model, run = load_run("runs/mosaics")  # doctest: +SKIP
    >>> run.preprocessing.class_names[:2]  # doctest: +SKIP
    ('brick', 'grass')
    """
    run = read_description(folder)
    path = run.folder / "weights.safetensors"
    if not path.is_file():
        started = (
            " (an unfinished training run: start the same `jaxconv train` again to finish it)" if run.train else ""
        )
        raise FileNotFoundError(f"{path} is missing{started}")
    model = nnx.eval_shape(lambda: _build(run))
    graph, streams, *weights = nnx.split(model, nnx.RngState, ...)
    model = nnx.merge(graph, fresh_rngs(streams, jax.random.key(0)), load_weights(path, *weights))
    model.eval()
    return model, run


def _build(run: Run) -> nnx.Module:
    """The model of a run folder as its weights lie there."""
    from jaxconv.nn import fold_batch_norm

    model = build_model(run.model_name, run.model_kwargs, nnx.Rngs(0))
    if run.fold_batch_norm:
        fold_batch_norm(model)
    return model


def tensors_of(state: nnx.State) -> dict[str, Any]:
    """Every variable of a model's state but its random streams, under dotted paths."""
    flat = nnx.to_flat_state(state)
    return {_dotted(p): v.get_value() for p, v in flat if not isinstance(v, nnx.RngState)}


def save_weights(path: str | Path, state: nnx.State) -> Path:
    """Stores `tensors_of` a model's state."""
    return save_tensors(path, tensors_of(state))


def save_tensors(path: str | Path, tensors: dict[str, Any], notes: dict[str, str] | None = None) -> Path:
    """Stores arrays by name in a safetensors file, with notes in its header."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return write_beside(path, lambda p: p.write_bytes(save(arrays, metadata={"format": "jaxconv"} | (notes or {}))))


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; a ValueError names a file that cannot be read."""
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except Exception as error:  # the reader's own errors, and KeyErrors of formats that NumPy has not
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} cannot be read ({reason}): truncated, or no safetensors file of float tensors"
        ) from None


def load_weights(path: str | Path, abstract: nnx.State) -> nnx.State:
    """Fills an abstract state without random streams (from ``nnx.split(nnx.eval_shape(...))``) with a file's tensors.

    Raises:
        ValueError: the file cannot be read, or tensors are missing, unexpected, mis-shaped or not finite (all are
            listed).
    """
    tensors = read_tensors(path)
    wanted = tensors_of(abstract)
    problems = [f"missing {k} {v.shape}" for k, v in wanted.items() if k not in tensors]
    problems += [f"unexpected {k} {v.shape}" for k, v in tensors.items() if k not in wanted]
    problems += [
        f"{k} has shape {tensors[k].shape}, the model needs {v.shape}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    problems += [
        f"{k} holds NaN or inf" for k, v in tensors.items() if v.dtype.kind == "f" and not np.isfinite(v).all()
    ]
    if problems:
        raise ValueError(f"{path} does not fit the model:\n  " + "\n  ".join(problems))
    return filled(abstract, tensors)


def filled(state: nnx.State, tensors: dict[str, np.ndarray]) -> nnx.State:
    """The state with the values of those variables that a tensor is named after."""

    def value(name: str, variable: nnx.Variable) -> nnx.Variable:
        dtype = variable.get_value().dtype
        return variable.replace(jnp.asarray(tensors[name], dtype)) if name in tensors else variable

    return nnx.from_flat_state([(path, value(_dotted(path), v)) for path, v in nnx.to_flat_state(state)])


def fresh_rngs(rngs: nnx.State, key: jax.Array) -> nnx.State:
    """The model's random streams as they start from ``key``: no stream has to be stored to repeat a step."""

    def fresh(number: int, variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_value()
        if not isinstance(variable, nnx.RngKey):
            return variable.replace(jnp.zeros(value.shape, value.dtype))
        own = jax.random.fold_in(key, number)
        return variable.replace(jax.random.split(own, value.shape) if value.shape else own)

    flat = nnx.to_flat_state(rngs)
    return nnx.from_flat_state([(path, fresh(number, variable)) for number, (path, variable) in enumerate(flat)])


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
