"""Trainings of one's own in the loop: two networks against each other, a regression."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.train.checkpoint import by_name
from jaxconv.train.config import TrainConfig
from jaxconv.train.devices import Devices, jit_once
from jaxconv.train.record import Preprocessing
from jaxconv.train.runfolder import own_attribute


class OwnStep(Protocol):
    """A training of one's own: an object with these functions, which `jaxconv.train.train` takes as ``step``.

    ``metrics`` and ``picture`` may be missing, and ``batch`` where there is ``data``. A state is a dict of arrays (or
    of dicts, lists and states of flax.nnx): the networks' parameters, those of their optimisers and whatever else
    changes. Everything random comes from the keys, so that an interrupted run goes on as if nothing had happened.
    """

    def init(self, key: jax.Array) -> Any:
        """The state before the first step."""
        ...

    def step(self, state: Any, key: jax.Array, *batch: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """The next state and numbers to be logged, the loss first; it is compiled."""
        ...

    def batch(self, start: int, count: int) -> tuple[np.ndarray, ...]:
        """Examples ``start .. start + count - 1``: arrays of ``count`` rows, a function of these numbers alone."""
        ...

    def metrics(self, state: Any) -> dict[str, float]:
        """Scores, the one first whose highest value is the best network."""
        ...

    def picture(self, state: Any) -> np.ndarray:
        """An image (h, w) or (h, w, 3) of 0..255."""
        ...


class Own:
    """What the loop needs to know of an `OwnStep`: the same as of `jaxconv.train.segmentation.Segmentation`.

    Args:
        config: of the run; the model, the loss and the optimiser are the step's own affair.
        given: an `OwnStep`, which is held against its own state, without computing one.
        source: has ``batch``, where ``given`` has none.
        devices: share the rows of a batch.

    Raises:
        ValueError: the step does not give a state as it took, or no numbers; the message names the difference.
    """

    record = Preprocessing(class_names=("output",))

    def __init__(self, config: TrainConfig, given: Any, source: Any, devices: Devices):
        key = jax.random.key(config.seed)
        source = given if hasattr(given, "batch") else source
        abstract = jax.eval_shape(given.init, key)
        shapes = jax.eval_shape(lambda: source.batch(0, config.batch_size))
        state, found = jax.eval_shape(given.step, abstract, key, *shapes)
        before, after = (
            {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}
            for leaves in map(jax.tree_util.tree_leaves_with_path, (abstract, state))
        )
        changed = [name for name in before | after if before.get(name) != after.get(name)]
        if changed:
            name = changed[0]
            raise ValueError(f"the step makes {after.get(name)} of the state's {name}, which is {before.get(name)}")
        bad = [name for name, value in found.items() if value.shape != ()]
        if not found or bad:
            raise ValueError(f"the step gives the numbers {', '.join(found) or 'none'}, of which {bad} are no scalars")

        placed = (devices.placement(abstract), devices.everywhere, devices.everywhere)

        @functools.partial(jax.jit, donate_argnums=0, out_shardings=placed)
        def step(state, number, *batch):
            new, found = given.step(devices.moved(state, devices.everywhere), jax.random.fold_in(key, number), *batch)
            return new, found, jnp.stack([all_finite(found), all_finite(new)])

        self.config, self.devices, self.abstract, self.step = config, devices, abstract, step
        self.kwargs, self._init, self._given, self._source = config.model_kwargs, jit_once(given.init), given, source
        self.numbers: tuple[str, ...] = tuple(found)
        self.scores: tuple[str, ...] = tuple(given.metrics(self._init(key))) if hasattr(given, "metrics") else ()

    def init(self, say: Callable[[str], None]) -> Any:
        """The state before the first step."""
        return self._init(jax.random.key(self.config.seed))

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The number of the step, and its arrays."""
        start, count = self.devices.part(self.config.batch_size)
        return (np.int32(step), *self._source.batch(step * self.config.batch_size + start, count))

    def names(self, step: int) -> list[str]:
        """The numbers of a step's examples, or what the data call them."""
        start, count = step * self.config.batch_size, self.config.batch_size
        named = getattr(self._source, "names", None)
        return named(start, count) if named else [f"examples {start} to {start + count - 1}"]

    def lay(self, batch: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
        """The rows of each array shared by all devices."""
        return (batch[0], *self.devices.lay(batch[1:], self.devices.by_example))

    def logged(self, found: dict[str, Any], batch: tuple[np.ndarray, ...]) -> dict[str, float]:
        """The numbers of a step."""
        return {name: float(found[name]) for name in self.numbers}

    def score(self, state: Any) -> dict[str, float]:
        """The step's own scores."""
        found = self._given.metrics(self.devices.local(state)) if self.scores else {}
        return {name: float(value) for name, value in found.items()}

    def variables(self, state: Any) -> dict[str, Any]:
        """All of the state, by dotted names."""
        return by_name(self.devices.local(state))

    def picture(self, state: Any) -> np.ndarray | None:
        """The step's own picture."""
        if not hasattr(self._given, "picture"):
            return None
        image = np.asarray(self._given.picture(self.devices.local(state)))
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)

    def finish(self, state: Any, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """The final scores, said."""
        scores = self.score(state)
        say(", ".join(f"{name} {value:.4f}" for name, value in scores.items()) or "finished")
        return scores


def own_step(config: TrainConfig) -> Any | None:
    """The `OwnStep` that ``config.model`` names as MODULE:NAME or FILE.py:NAME; None where it names a network."""
    found = own_attribute(config.model) if ":" in config.model else None
    if not hasattr(found, "step"):
        return None
    try:
        return found(**config.model_kwargs) if isinstance(found, type) else found
    except TypeError as error:
        raise ValueError(f"{config.model} does not take {config.model_kwargs}: {error}") from error


def all_finite(tree: Any) -> jax.Array:
    """Whether a pytree's floats are all finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.bool_(True), *(jnp.isfinite(leaf).all() for leaf in floats)]).all()
