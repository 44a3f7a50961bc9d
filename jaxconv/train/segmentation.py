"""What `jaxconv.train.loop` trains by default: a network that gives each pixel a class."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxconv.models import freeze
from jaxconv.train import runfolder
from jaxconv.train.baseline import fit_intensity_classifier
from jaxconv.train.config import TrainConfig, mixture
from jaxconv.train.data import Data
from jaxconv.train.devices import Devices, jit_once
from jaxconv.train.losses import enet_class_weights, make_loss
from jaxconv.train.metrics import Boundaries, confusion_of, mean_iou
from jaxconv.train.own import all_finite
from jaxconv.train.picture import comparison, drawn, save_confusion, save_picture
from jaxconv.train.recipe import make_optimizer
from jaxconv.train.segment import Predict, best_class, main_output, make_forward, score, segmenter
from jaxconv.train.weights import start_from

State = dict[str, Any]
# What remat keeps: the outputs of convolutions and matrix products, here and in jax.
_KEPT = ("conv_apply", "conv_adjoint", "conv_general_dilated", "dot_general")


class Segmentation:
    """The static side of a training: the state's shapes, found without computing anything, and compiled functions.

    The state is a dict: ``params`` (what is trained), ``frozen``, ``stats`` (batch statistics), ``opt`` (the
    optimiser's), ``step`` (int32), and with means of the parameters ``ema``.

    Raises:
        ValueError: the network, the data and the recipe do not fit together.
    """

    numbers: tuple[str, ...] = ("loss", "train_miou")
    scores: tuple[str, ...] = ("val_miou",)

    def __init__(self, config: TrainConfig, data: Data, devices: Devices):
        self.config, self.data, self.devices, self.record = config, data, devices, data.record
        needed = {"in_channels": self.record.channels, "classes": self.record.classes}
        needed |= {"rank": self.record.rank} if self.record.rank != 2 else {}
        self.kwargs, losses = needed | config.model_kwargs, mixture(config.loss)
        if self.record.multi_label and (alone := {"cross_entropy", "focal"} & losses.keys()):
            raise ValueError(
                f"labels are a mask for each class, and {alone.pop()} takes one class: --loss sigmoid, dice or lovasz"
            )
        for name, fits in needed.items():
            if self.kwargs[name] != fits:
                raise ValueError(
                    f"model_kwargs has {name}={self.kwargs[name]!r}, and the data has {fits}; leave it out"
                )

        def make() -> nnx.Module:
            return runfolder.build_model(config.model, self.kwargs, nnx.Rngs(config.seed))

        model = nnx.eval_shape(make)
        trained = freeze(model, *config.freeze)
        graph, params, self._rngs, _, _ = _split(model, trained)
        if not params:
            raise ValueError(f"freeze={config.freeze} leaves no parameter to be trained")
        model.eval()
        self._forward = make_forward(_split(model, trained)[0], self.record)
        optimizer = make_optimizer(config)

        def init() -> State:
            _, params, _, frozen, stats = _split(make(), trained)
            state = {"params": params, "frozen": frozen, "stats": stats, "opt": optimizer.init(params)}
            means = {"ema": jax.tree.map(jnp.copy, params)} if config.ema else {}
            return state | means | {"step": jnp.int32(0)}

        loss = make_loss(losses, self.record.ignore_index, _class_weights(config, data), config.aux_weight)
        self._init, self.abstract = jit_once(init), jax.eval_shape(init)
        self.step = self._make_step(graph, trained, optimizer, loss)

    def shape_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the labels of an image of this size."""
        images = jax.ShapeDtypeStruct((1, *size, self.record.channels), np.uint8)
        states = (self.abstract["params"], self.abstract["frozen"], self._rngs, self.abstract["stats"])
        return jax.eval_shape(self._forward, states, images).shape

    def init(self, say: Callable[[str], None]) -> State:
        """The state before the first step."""
        state = self._init()
        return state if self.config.init is None else start_from(self.config.init, state, say)

    def lay(self, batch: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
        """Images and labels on the devices."""
        return self.devices.lay(batch, self.devices.split)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of step number ``step``, from 0: this process's part."""
        start, count = self.devices.part(self.config.batch_size)
        return self.data.train.batch(step * self.config.batch_size + start, count)

    def names(self, step: int) -> list[str]:
        """What that batch is made of."""
        return self.data.train.names(step * self.config.batch_size, self.config.batch_size)

    def logged(self, found: dict[str, Any], batch: tuple[np.ndarray, ...]) -> dict[str, float]:
        """The numbers of a step, as they are logged."""
        record = self.record
        classes = self.devices.own_rows(found["classes"])
        confusion = self.devices.total(confusion_of(batch[1], classes, record))
        return {"loss": float(found["loss"]), "train_miou": mean_iou(confusion, record.ignore_index)}

    def score(self, state: State) -> dict[str, float]:
        """The scores that are taken during training."""
        record, size = self.record, self.config.batch_size
        confusion = score(self.segment(state), self.devices.own_share(self.data.val()), record, size)
        confusion = self.devices.total(confusion)
        return {"val_miou": mean_iou(confusion, record.ignore_index)}

    def variables(self, state: State) -> dict[str, Any]:
        """The network's parameters, or their means, and its batch statistics: what is saved."""
        return runfolder.tensors_of(nnx.merge_state(*self._network(state)))

    def _network(self, state: State) -> tuple[nnx.State, nnx.State, nnx.State]:
        """This process's copy of the parameters, or their means, of the frozen ones and the batch statistics."""
        trained = state["ema" if "ema" in state else "params"]
        return self.devices.local((trained, state["frozen"], state["stats"]))

    def picture(self, state: State) -> np.ndarray:
        """The first four images of the validation, their labels and what the network makes of them."""
        images, labels = _first(self.data.val())
        return comparison(images, labels, self.segment(state)(images), self.record)

    def segment(self, state: State) -> Predict:
        """Label maps of images with the present parameters, or their means."""
        streams = runfolder.fresh_rngs(self._rngs, jax.random.key(0))  # evaluation draws nothing from them
        params, frozen, stats = self._network(state)
        states = (params, frozen, streams, stats)
        return segmenter(self._forward, states, self.record, self.config.batch_size, self.devices.examples)

    def finish(self, state: State, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """The final scores and that of the baseline, and their pictures, as far as they can be drawn."""
        data, record, size = self.data, self.record, self.config.batch_size
        segment = self.segment(state)
        boundaries = Boundaries(record.classes, record.ignore_index, multi_label=record.multi_label)
        confusion = self.devices.total(score(segment, self.devices.own_share(data.test()), record, size, boundaries))
        boundaries.counts = self.devices.total(boundaries.counts)
        images, labels = data.train.batch(0, min(600, 1 + 10_000_000 // math.prod(self.config.crop)))
        baseline = fit_intensity_classifier(images, labels, record.classes, record.ignore_index)
        by_intensity = self.devices.total(score(baseline, self.devices.own_share(data.test()), record, size))
        ours, theirs = (mean_iou(found, record.ignore_index) for found in (confusion, by_intensity))
        results = {
            "split": data.scored, "miou": ours, "boundary_miou": boundaries.mean, "intensity_miou": theirs,
        }  # fmt: skip
        if data.scored == "test":
            results["test_miou"] = ours
        shown, truth = _first(data.test())
        title = f"{self.config.model}: {data.scored} mIoU {ours:.3f} (pixel intensity alone: {theirs:.3f})"
        say(f"{data.scored} mIoU {ours:.4f}; a classifier of single pixel intensities has {theirs:.4f}")
        drawn(lambda: save_confusion(folder / "confusion.png", confusion, record), say)
        drawn(lambda: save_picture(folder / "picture.png", shown, truth, segment(shown), record, title), say)
        return results

    def _make_step(
        self, graph: nnx.GraphDef, trained: Any, optimizer: optax.GradientTransformation, loss: Callable[..., jax.Array]
    ) -> Callable[..., tuple[State, dict[str, Any], jax.Array]]:
        """The jitted step ``(state, images, labels) -> (state, {loss, classes}, finite)``; it consumes its state.

        ``finite`` says of the loss, the gradient and the new state, in this order, whether all of it is.
        """
        config, devices, record, rngs = self.config, self.devices, self.record, self._rngs
        key, half = jax.random.key(config.seed), jnp.dtype(config.compute)
        where = devices.placement(self.abstract)
        placed = (where, {"loss": devices.everywhere, "classes": devices.split}, devices.everywhere)

        def outputs_of(params, frozen, stats, streams, images):
            params, frozen, stats = devices.moved((params, frozen, stats), devices.everywhere)
            if half != jnp.float32:
                params, frozen = (jax.tree.map(lambda leaf: leaf.astype(half), tree) for tree in (params, frozen))
            model = nnx.merge(graph, params, streams, frozen, stats, copy=True)  # it will be changed
            outputs = model(record.normalise(images).astype(half))
            new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), _split(model, trained)[4], stats)
            return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), outputs), new

        if config.remat:
            outputs_of = jax.checkpoint(outputs_of, policy=lambda primitive, *_, **__: primitive.name in _KEPT)

        def objective(params, frozen, stats, streams, images, labels):
            outputs, stats = outputs_of(params, frozen, stats, streams, images)
            return loss(outputs, labels), (stats, best_class(main_output(outputs, record), record).astype(jnp.int32))

        def gradient(params, *given):
            found, grads = jax.value_and_grad(objective, has_aux=True)(params, *given)
            return found, devices.moved(grads, where["params"])

        def of_parts(state, draw, images, labels):
            """The mean gradient of a batch's parts; part i has examples i, i + parts, ...: all devices have some."""
            count = config.accumulate

            def part(carry, numbered):
                (total, stats, grads), (number, images, labels) = carry, numbered
                streams = runfolder.fresh_rngs(rngs, jax.random.fold_in(draw, number))
                (value, (stats, classes)), new = gradient(
                    state["params"], state["frozen"], stats, streams, images, labels
                )
                return (total + value / count, stats, jax.tree.map(lambda a, b: a + b / count, grads, new)), classes

            parts = [a.reshape(-1, count, *a.shape[1:]).swapaxes(0, 1) for a in (images, labels)]
            zeros = jax.tree.map(jnp.zeros_like, state["params"])
            carry, classes = jax.lax.scan(part, (jnp.float32(0), state["stats"], zeros), (jnp.arange(count), *parts))
            return (carry[0], (carry[1], classes.swapaxes(0, 1).reshape(labels.shape))), carry[2]

        @functools.partial(jax.jit, donate_argnums=0, out_shardings=placed)
        def step(state, images, labels):
            draw = jax.random.fold_in(key, state["step"])
            if config.accumulate > 1:
                (value, (stats, classes)), grads = of_parts(state, draw, images, labels)
            else:
                given = (state["frozen"], state["stats"], runfolder.fresh_rngs(rngs, draw), images, labels)
                (value, (stats, classes)), grads = gradient(state["params"], *given)
            updates, opt = optimizer.update(grads, state["opt"], state["params"])
            params = optax.apply_updates(state["params"], updates)
            new = state | {"params": params, "stats": stats, "opt": opt, "step": state["step"] + 1}
            if config.ema:
                number = state["step"].astype(jnp.float32)
                decay = jnp.minimum(config.ema, (1 + number) / (10 + number))
                new["ema"] = optax.incremental_update(params, state["ema"], 1 - decay)
            finite = jnp.stack([all_finite(tree) for tree in (value, grads, new)])
            return new, {"loss": value, "classes": classes}, finite

        return step


def _first(examples: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The images and labels of the first four examples."""
    first = list(itertools.islice(examples, 4))
    return [image for image, _ in first], [labels for _, labels in first]


def _split(model: nnx.Module, trained: Any) -> tuple[Any, ...]:
    """The static part, what is trained, the random streams, the other parameters and the rest: batch statistics."""
    return nnx.split(model, trained, nnx.RngState, nnx.Param, ...)


def _class_weights(config: TrainConfig, data: Data) -> np.ndarray | None:
    given, classes = config.class_weighting, data.record.classes
    if given == "none":
        return None
    if not isinstance(given, str):
        if len(given) != classes:
            raise ValueError(f"class_weighting={given} must have one weight for each of {classes} classes")
        return np.array(given, np.float32)
    counts = np.zeros(classes, np.int64)
    for labels in data.train_labels():
        if data.record.multi_label:
            counts += (labels == 1).sum(tuple(range(labels.ndim - 1)))
        else:
            counts += np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    return enet_class_weights(counts)
