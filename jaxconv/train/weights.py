"""Weights that a run starts from, the best ones that it passes, and whether the network takes the data's sizes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from jaxconv.train.config import TrainConfig
from jaxconv.train.data import Data
from jaxconv.train.record import told_list, told_size
from jaxconv.train.runfolder import filled, read_tensors, save_tensors, tensors_of


class Best:
    """The weights with the highest score so far, in one file whose header names step and score.

    Args:
        path: of the file.
        done: steps that are done; what a later step left, which will be computed again, is removed.
        names: of the scores, of which the first counts.
    """

    def __init__(self, path: Path, done: int, names: tuple[str, ...] = ("val_miou",)):
        self._path, self._name, self.step, self._score = path, (*names, "score")[0], 0, -math.inf
        step, score = _notes(path, self._name) if path.is_file() else (0, 0.0)
        if 0 < step <= done:
            self.step, self._score = step, score
        else:
            path.unlink(missing_ok=True)

    def age(self, step: int) -> int:
        """How many steps before ``step`` the best score was; 0 without one."""
        return step - self.step if self.step else 0

    def offer(self, step: int, scores: dict[str, float], weights: dict[str, Any]) -> None:
        """Stores the weights if their score is higher than all before."""
        score = scores.get(self._name, math.nan)
        if score > self._score:
            self.step, self._score = step, score
            save_tensors(self._path, weights, {"step": str(step), self._name: repr(float(score))})


def _notes(path: Path, name: str) -> tuple[int, float]:
    """Step and score in the header of a safetensors file; zeros where it cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            step, score = int(file.metadata()["step"]), float(file.metadata()[name])
        return (step, score) if math.isfinite(score) else (0, 0.0)
    except Exception:  # the reader's own errors, no notes, or no numbers
        return 0, 0.0


def source_tensors(source: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The file that ``source``, a run folder or a weights file, means, and its tensors.

    Raises:
        FileNotFoundError: no such run or file.
        ValueError: it cannot be read, or holds NaN.
    """
    path = Path(source) / "weights.safetensors" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"--init {source}: {path} does not exist")
    tensors = read_tensors(path)
    bad = [name for name, array in tensors.items() if not np.isfinite(array.astype(np.float32)).all()]
    if bad:
        raise ValueError(f"--init {path}: {', '.join(bad[:4])} holds NaN or inf")
    return path, tensors


def start_from(source: str, state: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The state with parameters and statistics from a run folder or a weights file, where names and shapes agree.

    Raises:
        FileNotFoundError, ValueError: as `source_tensors`, or nothing fits.
    """
    path, tensors = source_tensors(source)
    parts = {part: state[part] for part in ("params", "frozen", "stats")}
    known = {name: value.shape for part in parts.values() for name, value in tensors_of(part).items()}
    fresh = [name for name, shape in known.items() if name not in tensors or tensors[name].shape != shape]
    if len(fresh) == len(known):
        raise ValueError(
            f"--init {path}: none of its {len(tensors)} tensors has the name and shape of one of the network"
        )
    fitting = {name: tensors[name] for name in known if name not in fresh}
    state = state | {name: filled(part, fitting) for name, part in parts.items()}
    if "ema" in state:
        state["ema"] = jax.tree.map(jnp.copy, state["params"])
    rest = f"; drawn at random: {told_list(fresh)}" if fresh else ""
    say(f"{len(fitting)} tensors come from {path}{rest}")
    return state


def check_sizes(shape_of: Callable[[tuple[int, ...]], tuple[int, ...]], config: TrainConfig, data: Data) -> None:
    """Refuses a network that does not give images of the data their own size, before anything is trained.

    Raises:
        ValueError: the message names the size, and the ``size_multiple`` that mends it.
    """

    def fails(size: tuple[int, ...]) -> str | None:
        try:
            found = shape_of(size)[1 : 1 + len(size)]
        except (TypeError, ValueError) as error:
            return str(error).split("\n")[0]
        return None if found == size else f"it gives {told_size(found)}"

    def padded(size: tuple[int, ...], multiple: int) -> tuple[int, ...]:
        return tuple(-(-n // multiple) * multiple for n in size)

    why = fails(config.crop)
    if why is not None:
        raise ValueError(f"{config.model} does not take crops of {told_size(config.crop)}: {why}")
    for size in data.sizes if data.record.size is None else ():
        why = fails(padded(size, data.record.size_multiple))
        if why is None:
            continue
        tried = (2, 4, 8, 16, 32, 64)
        mends = next((m for m in tried if all(fails(padded(s, m)) is None for s in data.sizes)), None)
        advice = f"; give --set size_multiple={mends}, which pads them to be scored" if mends else ""
        raise ValueError(f"{config.model} does not take images of {told_size(size)}: {why}{advice}")
