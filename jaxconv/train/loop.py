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

from jaxconv._text import printable
from jaxconv.train import runfolder
from jaxconv.train.baseline import fit_intensity_classifier
from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.config import TrainConfig
from jaxconv.train.data import Data, load_data
from jaxconv.train.devices import Devices
from jaxconv.train.files import locked, remove_temporaries, write_json
from jaxconv.train.log import MetricsLog
from jaxconv.train.losses import cross_entropy, enet_class_weights
from jaxconv.train.metrics import confusion_matrix, mean_iou
from jaxconv.train.picture import save_picture
from jaxconv.train.prefetch import prefetch
from jaxconv.train.progress import Interrupt, bar
from jaxconv.train.record import Preprocessing
from jaxconv.train.segment import Predict, make_forward, score, segmenter
from jaxconv.train.start import open_run
from jaxconv.train.survey import look
from jaxconv.train.weights import Best, check_sizes, source_tensors, start_from

Say = Callable[[str], None]


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: Data | None = None,
    restart: bool = False,
    extend: bool = False,
    mesh: str | None = None,
    console: Console | None = None,
) -> dict:
    """Trains a network, or continues the run in ``out`` from its newest good checkpoint.

    Args:
        config: what to do.
        out: the run folder (see `jaxconv.train.runfolder`).
        data: what to learn from in place of the folder or the mosaics (see `jaxconv.train.data.source_data`).
        restart: start anew although ``out`` holds a run; that run is kept beside, as ``OUT.1`` or the next free number.
        extend: go on with the run in ``out``, finished or not, to more ``steps``: the learning rate follows the
            schedule of the longer run from here on.
        mesh: how many devices share the examples of a batch and the rows of its images, as "data=4,height=2"; by
            default all of the machine that share the examples evenly. A run may go on with another mesh.
        console: where sentences and the progress bar go.

    Returns:
        The scores, as written to results.json: ``miou`` of the split that ``split`` names.

    Raises:
        FileExistsError: ``out`` holds a finished run, or something that is no run.
        BlockingIOError: another process trains in ``out``.
        ValueError: ``out`` holds a run of another config (the message names the keys that differ), there is more than
            one process, devices cannot share a batch, or data and network do not fit together.
        FloatingPointError: the loss, the gradient or the new state is not finite; the message names the step and the
            data.
        KeyboardInterrupt: after SIGINT, when a checkpoint has been written.

    >>> train(TrainConfig(steps=100), "runs/short")["test_miou"]  # doctest: +SKIP
    """
    console = console or Console()
    folder = Path(out)

    def say(text: str) -> None:
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    if jax.process_count() > 1:
        raise ValueError(f"train runs in one process, and jax.distributed has {jax.process_count()}: start it without")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --out")
    existed = folder.is_dir()
    devices = Devices.of(mesh, config.batch_size, config.crop[0])
    try:
        with locked(folder):
            return _train(config, folder, data, devices, restart, extend, console, say)
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # refused before anything was written


def _train(
    config: TrainConfig,
    folder: Path,
    given: Data | None,
    devices: Devices,
    restart: bool,
    extend: bool,
    console: Console,
    say: Say,
) -> dict:
    """`train` where no other process works in the folder."""
    remove_temporaries(folder)
    earlier = open_run(folder, config, restart, say, extend)
    data = given or load_data(config, earlier.preprocessing if earlier else None)
    if earlier is None and given is None and config.data is not None:
        look(config, say)
    record = data.record
    kwargs = {"in_channels": record.channels, "classes": record.classes, **config.model_kwargs}
    for name, fits in (("in_channels", record.channels), ("classes", record.classes)):
        if kwargs[name] != fits:
            raise ValueError(f"model_kwargs has {name}={kwargs[name]!r}, and the data has {fits}; leave it out")
    trainer = Trainer.build(config, kwargs, data, devices)
    check_sizes(trainer.shape_of, config, data)
    if earlier is None:
        if config.init is not None:
            source_tensors(config.init)  # a wrong name is said before the folder is made
        runfolder.write_description(
            folder, model_name=config.model, model_kwargs=kwargs, preprocessing=record, train=config.to_dict()
        )
    checkpoints = Checkpoints(folder / "checkpoints", say)
    try:
        state, seconds = _run_steps(trainer, config, data, folder, checkpoints, console, say)
    finally:
        checkpoints.close()
    return _finish(trainer, state, config, data, folder, seconds, say)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The static side of training: the state's shapes and the compiled functions of it.

    The state is a dict: ``params``, ``stats`` (batch statistics), ``opt`` (the optimizer's) and ``step`` (int32).
    """

    record: Preprocessing
    devices: Devices
    init: Any
    step: Any
    forward: Any
    abstract: Any
    rngs: nnx.State
    shape_of: Any

    @classmethod
    def build(cls, config: TrainConfig, kwargs: dict[str, Any], data: Data, devices: Devices) -> "Trainer":
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
        step = make_step(graph, rngs, optimizer, loss, data.record, jax.random.key(config.seed), devices)
        forward, abstract = make_forward(graph_eval, data.record), jax.eval_shape(init)

        def shape_of(size: tuple[int, int]) -> tuple[int, ...]:
            images = jax.ShapeDtypeStruct((1, *size, data.record.channels), np.uint8)
            return jax.eval_shape(forward, (abstract["params"], rngs, abstract["stats"]), images).shape

        return cls(data.record, devices, jax.jit(init), step, forward, abstract, rngs, shape_of)

    def segment(self, state: dict[str, Any], batch_size: int) -> Predict:
        """Label maps of images with the present parameters."""
        streams = fresh_rngs(self.rngs, jax.random.key(0))  # evaluation draws nothing from them
        return segmenter(
            self.forward, (state["params"], streams, state["stats"]), self.record, batch_size, self.devices.examples
        )


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
    devices: Devices,
) -> Callable[[dict[str, Any], np.ndarray, np.ndarray], tuple[dict[str, Any], jax.Array, jax.Array, jax.Array]]:
    """The jitted step ``(state, images, labels) -> (state, loss, predicted classes, finite)``; it consumes its state.

    ``finite`` says of the loss, the gradient and the new state, in this order, whether all of it is.
    """

    placed = (devices.everywhere, devices.everywhere, devices.split, devices.everywhere)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=placed)
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
        finite = jnp.stack([_all_finite(tree) for tree in (value, grads, new)])
        return new, value, logits.argmax(-1).astype(jnp.int32), finite

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


def _all_finite(tree: Any) -> jax.Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def _class_weights(config: TrainConfig, data: Data) -> np.ndarray | None:
    if config.class_weighting == "none":
        return None
    classes = data.record.classes
    counts = np.zeros(classes, np.int64)
    for labels in data.train_labels():
        counts += np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    return enet_class_weights(counts)


def _run_steps(
    trainer: Trainer,
    config: TrainConfig,
    data: Data,
    folder: Path,
    checkpoints: Checkpoints,
    console: Console,
    say: Say,
) -> tuple[dict[str, Any], float]:
    """All steps that are still to do; returns the state and the seconds of computing, earlier starts included."""
    done = checkpoints.latest or 0
    state = checkpoints.restore(done, trainer.abstract) if done else trainer.init()
    if not done and config.init is not None:
        state = start_from(config.init, state, say)
    devices = trainer.devices
    state = devices.replicate(state)
    if devices.count > 1:
        say(f"{devices.count} devices, {', '.join(f'{name}={size}' for name, size in devices.mesh.shape.items())}")
    best = Best(folder / "best.safetensors", done)
    log = MetricsLog(folder / "metrics.csv", done)
    began = time.perf_counter() - log.seconds
    if done:
        say(f"resuming {folder} after step {done} of {config.steps}")
    batch = functools.partial(_batch, data, config.batch_size)
    record, last_val = data.record, None
    with Interrupt() as interrupt, bar(console, done, config.steps) as show:
        for number, (images, labels) in enumerate(prefetch(batch, done, config.steps), done + 1):
            state, loss, predicted, finite = trainer.step(state, *jax.device_put((images, labels), devices.split))
            loss = float(loss)
            _check_finite(np.asarray(finite), loss, number, data, config.batch_size, folder)
            logs, scores = (number % every == 0 for every in (config.log_every, config.eval_every))
            if scores:
                segment = trainer.segment(state, config.batch_size)
                last_val = mean_iou(score(segment, data.val(), record, config.batch_size), record.ignore_index)
                best.offer(number, last_val, state)
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


def _check_finite(finite: np.ndarray, loss: float, step: int, data: Data, batch_size: int, folder: Path) -> None:
    if finite.all():
        return
    first = (f"loss is {loss}", "gradient is not finite", "new state is not finite")[int(finite.argmin())]
    names = data.train.names((step - 1) * batch_size, batch_size)
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise FloatingPointError(
        f"{first} at step {step} ({listed}); {folder} keeps the checkpoints before it (a lower learning_rate may help)"
    )


def _finish(
    trainer: Trainer,
    state: dict[str, Any],
    config: TrainConfig,
    data: Data,
    folder: Path,
    seconds: float,
    say: Say,
) -> dict[str, Any]:
    """Scores, the baseline's score, the weights and, if it can be drawn, the picture."""
    record, size = data.record, config.batch_size
    segment = trainer.segment(state, size)
    confusion = score(segment, data.test(), record, size)
    images, labels = data.train.batch(0, min(600, 1 + 10_000_000 // math.prod(config.crop)))
    baseline = fit_intensity_classifier(images, labels, record.classes, record.ignore_index)
    by_intensity = score(baseline, data.test(), record, size)
    results = {
        "steps": config.steps,
        "split": data.scored,
        "miou": mean_iou(confusion, record.ignore_index),
        "intensity_miou": mean_iou(by_intensity, record.ignore_index),
        "train_seconds": round(seconds, 1),
    }
    if data.scored == "test":
        results["test_miou"] = results["miou"]
    write_json(folder / "results.json", results)
    runfolder.save_weights(folder / "weights.safetensors", nnx.merge_state(state["params"], state["stats"]))
    examples = [example for example, _ in zip(data.test(), range(4), strict=False)]
    shown, truth = ([example[part] for example in examples] for part in (0, 1))
    ours, theirs = results["miou"], results["intensity_miou"]
    title = f"{config.model}: {data.scored} mIoU {ours:.3f} (pixel intensity alone: {theirs:.3f})"
    say(f"{data.scored} mIoU {ours:.4f}; a classifier of single pixel intensities has {theirs:.4f}")
    try:
        save_picture(folder / "picture.png", shown, truth, segment(shown), record, title)
    except Exception as error:  # a decoration: the run is finished without it
        say(f"warning: {folder / 'picture.png'} could not be drawn: {error}")
        say(f"run folder {folder}")
    else:
        say(f"run folder {folder}, picture {folder / 'picture.png'}")
    return results
