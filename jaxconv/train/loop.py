"""Training: the file to read from top to bottom.

A run is decided by its config alone. Example i of the data, and every random number of step k, are functions of the
seed and of i or k; so a run that was interrupted and started again continues as if nothing had happened.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from jaxconv.train import runfolder
from jaxconv.train.baseline import fit_intensity_classifier
from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.config import TrainConfig
from jaxconv.train.data import Data, load_data
from jaxconv.train.files import write_json
from jaxconv.train.log import MetricsLog
from jaxconv.train.losses import cross_entropy, enet_class_weights
from jaxconv.train.metrics import confusion_matrix, mean_iou
from jaxconv.train.picture import save_picture
from jaxconv.train.prefetch import prefetch
from jaxconv.train.progress import Interrupt, bar
from jaxconv.train.record import Preprocessing
from jaxconv.train.segment import Predict, make_forward, score, segmenter
from jaxconv.train.start import open_run


def train(config: TrainConfig, out: str | Path, *, restart: bool = False, console: Console | None = None) -> dict:
    """Trains a network, or continues the run in ``out`` from its newest good checkpoint.

    Args:
        config: what to do.
        out: the run folder (see `jaxconv.train.runfolder`).
        restart: start anew although ``out`` holds a run; that run is kept beside, as ``OUT.1`` or the next free number.
        console: where sentences and the progress bar go.

    Returns:
        The scores, as written to results.json.

    Raises:
        FileExistsError: ``out`` holds a finished run, or something that is no run.
        ValueError: ``out`` holds a run of another config; the message names the keys that differ.
        FloatingPointError: the loss is not finite; the message names the step.
        KeyboardInterrupt: after SIGINT, when a checkpoint has been written.

    >>> train(TrainConfig(steps=100), "runs/short")["test_miou"]  # doctest: +SKIP
    """
    console = console or Console()
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    folder = Path(out)
    earlier = open_run(folder, config, restart, say)
    data = load_data(config, earlier.preprocessing if earlier else None)
    record = data.record
    kwargs = {"in_channels": record.channels, "classes": record.classes, **config.model_kwargs}
    trainer = Trainer.build(config, kwargs, data)
    if earlier is None:
        runfolder.write_description(
            folder, model_name=config.model, model_kwargs=kwargs, preprocessing=record, train=config.to_dict()
        )
    checkpoints = Checkpoints(folder / "checkpoints", say)
    try:
        state, seconds = _run_steps(trainer, config, data, folder, checkpoints, console)
    finally:
        checkpoints.close()
    return _finish(trainer, state, config, data, folder, seconds, say)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The static side of training: the state's shapes and the compiled functions of it.

    The state is a dict: ``params``, ``stats`` (batch statistics), ``opt`` (the optimizer's) and ``step`` (int32).
    """

    record: Preprocessing
    init: Any
    step: Any
    forward: Any
    abstract: Any
    rngs: nnx.State

    @classmethod
    def build(cls, config: TrainConfig, kwargs: dict[str, Any], data: Data) -> "Trainer":
        """Finds all shapes without computing anything, and makes the jitted functions."""

        def make() -> nnx.Module:
            return runfolder.build_model(config.model, kwargs, nnx.Rngs(config.seed))

        model = nnx.eval_shape(make)
        model.train()
        graph, _, rngs, _ = _split(model)
        model.eval()
        graph_eval = _split(model)[0]
        optimizer = make_optimizer(config)

        def init() -> dict[str, Any]:
            _, params, _, stats = _split(make())
            return {"params": params, "stats": stats, "opt": optimizer.init(params), "step": jnp.int32(0)}

        weights = _class_weights(config, data)
        loss = functools.partial(cross_entropy, ignore_index=data.record.ignore_index, class_weights=weights)
        step = make_step(graph, rngs, optimizer, loss, data.record, jax.random.key(config.seed))
        return cls(data.record, jax.jit(init), step, make_forward(graph_eval, data.record), jax.eval_shape(init), rngs)

    def segment(self, state: dict[str, Any], batch_size: int) -> Predict:
        """Label maps of images with the present parameters."""
        streams = fresh_rngs(self.rngs, jax.random.key(0))  # evaluation draws nothing from them
        return segmenter(self.forward, (state["params"], streams, state["stats"]), self.record, batch_size)


def _split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
    """The static part, the parameters, the random streams and the rest, which is batch statistics."""
    parts: tuple[Any, ...] = nnx.split(model, nnx.Param, nnx.RngState, ...)
    graph, params, rngs, stats = parts
    return graph, params, rngs, stats


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with a warm-up and a cosine to zero, gradients clipped by their global norm, decay on kernels only."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warmup_steps, config.steps - 1), config.steps
    )
    decayed = functools.partial(jax.tree.map, lambda p: p.ndim > 1)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed),
    )


def make_step(
    graph: nnx.GraphDef,
    rngs: nnx.State,
    optimizer: optax.GradientTransformation,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    record: Preprocessing,
    key: jax.Array,
) -> Callable[[dict[str, Any], np.ndarray, np.ndarray], tuple[dict[str, Any], jax.Array, jax.Array]]:
    """The jitted step ``(state, images, labels) -> (state, loss, predicted classes)``; it consumes its state."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        streams = fresh_rngs(rngs, jax.random.fold_in(key, state["step"]))

        def objective(params):
            model = nnx.merge(graph, params, streams, state["stats"], copy=True)  # it will be changed
            logits = model(record.normalise(images))
            return loss(logits, labels), (_split(model)[3], logits)

        (value, (stats, logits)), grads = jax.value_and_grad(objective, has_aux=True)(state["params"])
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        new = {
            "params": optax.apply_updates(state["params"], updates),
            "stats": stats,
            "opt": opt,
            "step": state["step"] + 1,
        }
        return new, value, logits.argmax(-1).astype(jnp.int32)

    return step


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


def _class_weights(config: TrainConfig, data: Data) -> np.ndarray | None:
    if config.class_weighting == "none":
        return None
    classes = data.record.classes
    counts = np.zeros(classes, np.int64)
    for labels in data.train_labels():
        counts += np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    return enet_class_weights(counts)


def _run_steps(
    trainer: Trainer, config: TrainConfig, data: Data, folder: Path, checkpoints: Checkpoints, console: Console
) -> tuple[dict[str, Any], float]:
    """All steps that are still to do; returns the state and the seconds of computing, earlier starts included."""
    done = checkpoints.latest or 0
    state = checkpoints.restore(done, trainer.abstract) if done else trainer.init()
    log = MetricsLog(folder / "metrics.csv", done)
    began = time.perf_counter() - log.seconds
    if done:
        console.print(f"resuming {folder} after step {done} of {config.steps}", markup=False, soft_wrap=True)
    batch = functools.partial(_batch, data, config.batch_size)
    record, last_val = data.record, None
    with Interrupt() as interrupt, bar(console, done, config.steps) as show:
        for number, (images, labels) in enumerate(prefetch(batch, done, config.steps), done + 1):
            state, loss, predicted = trainer.step(state, images, labels)
            loss = _finite(float(loss), number, folder)
            logs, scores = (number % every == 0 for every in (config.log_every, config.eval_every))
            if scores:
                segment = trainer.segment(state, config.batch_size)
                last_val = mean_iou(score(segment, data.val(), record, config.batch_size), record.ignore_index)
            if logs or scores or number == config.steps:
                confusion = confusion_matrix(labels, predicted, record.classes, record.ignore_index)
                batch_iou = mean_iou(confusion, record.ignore_index)
                log.add(number, loss, batch_iou, last_val if scores else None, time.perf_counter() - began)
                show(number, loss, batch_iou, last_val, scores)
            stop = interrupt.requested and number < config.steps
            if number % config.checkpoint_every == 0 or number == config.steps or stop:
                checkpoints.save(number, state)
            if stop:
                raise KeyboardInterrupt(f"stopped after step {number}; the same command continues from there")
    return state, time.perf_counter() - began


def _batch(data: Data, batch_size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    return data.train.batch(step * batch_size, batch_size)


def _finite(loss: float, step: int, folder: Path) -> float:
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"loss is {loss} at step {step}; {folder} keeps the checkpoints before it (a lower learning_rate may help)"
        )
    return loss


def _finish(
    trainer: Trainer,
    state: dict[str, Any],
    config: TrainConfig,
    data: Data,
    folder: Path,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Scores, the baseline's score, the picture and, last, the weights."""
    record, size = data.record, config.batch_size
    segment = trainer.segment(state, size)
    confusion = score(segment, data.test(), record, size)
    images, labels = data.train.batch(0, min(600, 1 + 10_000_000 // math.prod(config.crop)))
    baseline = fit_intensity_classifier(images, labels, record.classes, record.ignore_index)
    by_intensity = score(baseline, data.test(), record, size)
    results = {
        "steps": config.steps,
        "test_miou": mean_iou(confusion, record.ignore_index),
        "intensity_miou": mean_iou(by_intensity, record.ignore_index),
        "train_seconds": round(seconds, 1),
    }
    examples = [example for example, _ in zip(data.test(), range(4), strict=False)]
    shown, truth = ([example[part] for example in examples] for part in (0, 1))
    ours, theirs = results["test_miou"], results["intensity_miou"]
    title = f"{config.model}: test mIoU {ours:.3f} (pixel intensity alone: {theirs:.3f})"
    save_picture(folder / "picture.png", shown, truth, segment(shown), record, title)
    write_json(folder / "results.json", results)
    runfolder.save_weights(folder / "weights.safetensors", nnx.merge_state(state["params"], state["stats"]))
    say(f"test mIoU {ours:.4f}; a classifier of single pixel intensities has {theirs:.4f}")
    say(f"run folder {folder}, picture {folder / 'picture.png'}")
    return results
