"""What the experiments share: wired mosaics, one training loop, spectra, scores, records that are not repeated."""

import base64
import functools
import importlib.util
import json
import os
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy import ndimage

from jaxconv.benchmark.runner import machine
from jaxconv.train.metrics import Boundaries, confusion_matrix, mean_iou, per_class_iou, pixel_accuracy
from jaxconv.train.mosaic import PHOTOGRAPHS, Mosaics

NAMES = (
    "schedules", "streets", "upsamplers", "digits", "published", "bilinear", "super_resolution", "membranes", "costs",
)  # fmt: skip
RESULTS = Path(__file__).resolve().parents[1] / "results" / "experiments"
SIZE, BATCH, WIRE = 64, 8, len(PHOTOGRAPHS)
CLASSES = WIRE + 1


# ---------------------------------------------------------------------------------------------------------------- data
@functools.cache
def mosaics(split, seed, size=SIZE):
    """`Mosaics` of scikit-image's photographs, each split from a strip of its own."""
    return Mosaics.of_photographs(split, seed=seed, size=size)


def wires(rng, image, label):
    """Draws two to four curves, two pixels wide, over a mosaic: the class of thin structures."""
    image, label = image.copy(), label.copy()
    t = np.linspace(0, 1, 4 * len(image))[:, None]
    for _ in range(rng.integers(2, 5)):
        a, b, c = rng.uniform(0, len(image), (3, 2))
        at = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
        rows, columns = np.clip(np.rint(at).astype(int), 0, len(image) - 2).T
        level = rng.choice((-1, 1)) * rng.uniform(30, 60) + image[rows, columns].mean()
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            where = rows + down, columns + right
            image[where] = np.clip(level + rng.normal(0, 12, len(t)), 0, 255).astype(np.uint8)
            label[where] = WIRE
    return image, label


@functools.cache
def examples(split, seed, count, size=SIZE):
    """``count`` images (count, size, size, 1) of mean 0 and deviation 1, and labels (count, size, size)."""
    rng = np.random.default_rng([11, seed, *split.encode()])
    pairs = [wires(rng, *mosaics(split, seed, size).mosaic(index)) for index in range(count)]
    images, labels = (np.stack(part) for part in zip(*pairs))
    return ((images[..., None] - 128.0) / 45).astype(np.float32), labels.astype(np.int32)


def held_out(count=48, size=SIZE):
    """The same examples of the test strips for every run."""
    return examples("test", 0, count, size)


# ------------------------------------------------------------------------------------------------------------ training
def training_step(model, steps, loss, rate=4e-3, frozen=()):
    """One step of Adam with a cosine schedule.

    Args:
        model: an NNX module, in training mode.
        steps: how many there will be.
        loss: of outputs and targets.
        rate: learning rate at the start.
        frozen: names of layers at the top of the model that do not move.

    Returns:
        ``step(params, rest, adam, x, y)`` -> the new three, which take the place of the old, and the loss; and the
        first three.
    """
    kept = nnx.All(nnx.Param, lambda path, _: path[0] not in frozen)
    graph, params, rest = nnx.split(model, kept, ...)
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, rest, state, x, y):
        def value(params):
            copy = nnx.merge(graph, params, rest, copy=True)
            found = loss(copy(x), y)
            return found, nnx.split(copy, kept, ...)[2]

        (found, new), grads = jax.value_and_grad(value, has_aux=True)(params)
        updates, state = adam.update(grads, state, params)
        return optax.apply_updates(params, updates), new, state, found

    params, rest = jax.tree.map(jnp.copy, (params, rest))  # the model's own arrays are not given away
    return step, (params, rest, adam.init(params))


def train(model, steps, pairs, loss, rate=4e-3, frozen=(), at=None):
    """Adam with a cosine schedule; returns the loss every tenth of the way and the time of a step.

    Args:
        model: an NNX module, trained in place.
        steps, loss, rate, frozen: as for `training_step`.
        pairs: inputs and targets, read ``BATCH`` at a time in their order.
        at: step to a function that is called before it, with the model in evaluation mode.
    """
    model.train()
    step, (params, rest, state) = training_step(model, steps, loss, rate, frozen)
    curve, wall, processor = [], [], []

    def call(number):
        if number in (at or {}):
            nnx.update(model, params, rest)
            model.eval()
            at[number]()
            nnx.update(model, jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, rest))
            model.train()

    for number in range(steps):
        call(number)
        places = np.arange(number * BATCH, (number + 1) * BATCH) % len(pairs[0])
        began = time.perf_counter(), time.process_time()
        params, rest, state, found = step(params, rest, state, *(part[places] for part in pairs))
        found = float(found)
        wall.append(time.perf_counter() - began[0])
        processor.append(time.process_time() - began[1])
        if number % max(steps // 10, 1) == 0 or number == steps - 1:
            curve.append([number, round(found, 4)])
    nnx.update(model, params, rest)
    model.eval()
    half = len(wall) // 2  # the first steps compile
    times = {name: round(1e3 * float(np.median(t[half:])), 2) for name, t in (("wall", wall), ("cpu", processor))}
    return {"loss": curve, "step_ms": times}


def cross_entropy(logits, labels):
    """Mean over all pixels."""
    return -(jax.nn.one_hot(labels, logits.shape[-1]) * jax.nn.log_softmax(logits)).sum(-1).mean()


def runner(model, call=None):
    """``run(x)``: outputs of the model as it is at the call, or ``call(model, x)``; compiled once."""

    @nnx.jit
    def run(model, x):
        return model(x) if call is None else call(model, x)

    return lambda x: np.asarray(run(model, x))


# -------------------------------------------------------------------------------------------------------------- scores
def segmentation_scores(logits, labels, ignored=None, thin=(("wire", WIRE),)):
    """mIoU, IoU of boundaries and of thin classes, accuracy, and the share of speckles in percent.

    A speckle is a pixel that none of its four neighbours agrees with, where the labels are alike in a 5x5 square.
    """
    found, classes = logits.argmax(-1), logits.shape[-1]
    confusion = confusion_matrix(labels, found, classes, ignored)
    boundaries = Boundaries(classes, ignored)
    speckles = plain = 0
    for label, one in zip(labels, found):
        boundaries.add(label, one)
        calm = (ndimage.minimum_filter(label, 5) == ndimage.maximum_filter(label, 5)) & (label != ignored)
        padded = np.pad(one, 1, mode="edge")
        alone = np.ones(one.shape, bool)
        for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)),
                              (slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))):  # fmt: skip
            alone &= padded[rows, columns] != one
        speckles, plain = speckles + np.count_nonzero(alone & calm), plain + np.count_nonzero(calm)
    scores = {
        "miou": mean_iou(confusion),
        "boundary": boundaries.mean,
        **{name: per_class_iou(confusion)[number] for name, number in thin},
        "accuracy": pixel_accuracy(confusion),
        "speckles": 100 * speckles / max(plain, 1),
    }
    return {name: round(float(value), 4) for name, value in scores.items()}


def spectrum_lines(images, factor, whole=False):
    """The share of a spectrum at the frequencies of an upsampling, and what lies around them; square roots.

    The middle half of images (N, H, W, C), or with ``whole`` all of them, under Hann's window, less their mean; the
    lines are the multiples of 1 / factor (but for 0), with the bins that the window spreads them to; "around" are as
    many bins beside them.
    """
    n = images.shape[1] if whole else images.shape[1] // 2
    low = (images.shape[1] - n) // 2
    middle = images[:, low : low + n, low : low + n].astype(np.float64)
    middle = middle - middle.mean((1, 2), keepdims=True)
    window = np.hanning(n + 1)[:-1]
    power = (np.abs(np.fft.fft2(middle * np.outer(window, window)[..., None], axes=(1, 2))) ** 2).sum((0, 3))
    marks = np.arange(factor) * (n // factor)
    near = np.zeros((n, n), int)  # 1: a line, 2: around one
    for reach, mark in ((3, 2), (1, 1)):
        for row in marks:
            for column in marks:
                if row or column:
                    near[
                        np.ix_((row + np.arange(-reach, reach + 1)) % n, (column + np.arange(-reach, reach + 1)) % n)
                    ] = mark
    base = power[near == 2].mean() if (near == 2).any() else 0.0
    lines, total = power[near == 1], power.sum()
    return {
        "lines": float(np.sqrt(lines.sum() / total)),
        "around": float(np.sqrt(base * lines.size / total)),
    }


# ------------------------------------------------------------------------------------------------------------- records
def shared(name):
    """A folder of real data that is not part of the project: ../shared/data/NAME, or in the folder JAXCONV_DATA.

    Raises:
        FileNotFoundError: it is not there; `record` then leaves the run out.
    """
    folder = Path(os.environ.get("JAXCONV_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}'s data are not here")
    return folder


def example(name):
    """The module docs/examples/NAME.py."""
    path = Path(__file__).resolve().parents[2] / "docs" / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rounded(numbers):
    """Four digits of each; None stays."""
    return {name: None if value is None else float(f"{value:.4g}") for name, value in numbers.items()}


def packed(array):
    """A small uint8 array as text."""
    array = np.ascontiguousarray(array, np.uint8)
    return {"shape": list(array.shape), "zlib": base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()}


def unpacked(text):
    """What `packed` packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text["zlib"])), np.uint8).reshape(text["shape"])


def read(name, folder=RESULTS):
    """The records of an experiment, in the order in which they were made."""
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def record(experiment, variants, seeds, scale, folder=RESULTS, say=print):
    """Run what is not recorded yet, one line of JSON a run.

    Args:
        experiment: module with NAME, SETTINGS (scale to steps and sizes), run(variant, seed, settings), which raises
            FileNotFoundError where data are not here, and perhaps ONCE, the variants in which the seed plays no part.
        variants: their names.
        seeds: of initialisation and data.
        scale: "full" or "reduced".
        folder: where the records are.
        say: told about every run.
    """
    settings = experiment.SETTINGS[scale]
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for variant in variants:
            if seed != seeds[0] and variant in getattr(experiment, "ONCE", ()):
                continue
            wanted = {"variant": variant, "seed": seed, "settings": settings}
            # Read anew each time: two processes may share the work.
            if any(wanted.items() <= one.items() for one in read(experiment.NAME, folder)):
                continue
            began = time.perf_counter(), time.process_time()
            try:
                found = experiment.run(variant, seed, settings)
            except FileNotFoundError as error:
                say(f"{experiment.NAME}, {variant}: left out, {error}")
                continue
            seconds = {"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]}
            line = {
                **wanted, **found,
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "load": round(os.getloadavg()[0], 1), "machine": machine(),
            }  # fmt: skip
            with open(folder / f"{experiment.NAME}.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            say(f"{experiment.NAME}, {variant}, seed {seed}: {seconds['wall']:.0f} s, {found['scores']}")
