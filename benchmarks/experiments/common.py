"""What the experiments share: wired mosaics, one training loop, spectra, scores, records that are not repeated."""

import base64
import functools
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
def train(model, steps, pairs, loss, rate=4e-3, frozen=(), at=None):
    """Adam with a cosine schedule; returns the loss every tenth of the way and the time of a step.

    Args:
        model: an NNX module, trained in place.
        steps: how many.
        pairs: inputs and targets, read ``BATCH`` at a time in their order.
        loss: of outputs and targets.
        rate: learning rate at the start.
        frozen: names of layers at the top of the model that do not move.
        at: step to a function that is called before it, with the model in evaluation mode.
    """
    kept = nnx.All(nnx.Param, lambda path, _: path[0] not in frozen)
    model.train()
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
    state, curve, wall, processor = adam.init(params), [], [], []

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


def runner(model):
    """``run(x)``: outputs of the model as it is at the call; compiled once."""

    @nnx.jit
    def run(model, x):
        return model(x)

    return lambda x: np.asarray(run(model, x))


# -------------------------------------------------------------------------------------------------------------- scores
def segmentation_scores(logits, labels):
    """mIoU, IoU of boundaries and of the wires, accuracy, and the share of speckles in percent.

    A speckle is a pixel that none of its four neighbours agrees with, where the labels are alike in a 5x5 square.
    """
    found = logits.argmax(-1)
    confusion, boundaries = confusion_matrix(labels, found, CLASSES), Boundaries(CLASSES)
    speckles = plain = 0
    for label, one in zip(labels, found):
        boundaries.add(label, one)
        calm = ndimage.minimum_filter(label, 5) == ndimage.maximum_filter(label, 5)
        padded = np.pad(one, 1, mode="edge")
        alone = np.ones(one.shape, bool)
        for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)),
                              (slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))):  # fmt: skip
            alone &= padded[rows, columns] != one
        speckles, plain = speckles + np.count_nonzero(alone & calm), plain + np.count_nonzero(calm)
    scores = {
        "miou": mean_iou(confusion),
        "boundary": boundaries.mean,
        "wire": per_class_iou(confusion)[WIRE],
        "accuracy": pixel_accuracy(confusion),
        "speckles": 100 * speckles / max(plain, 1),
    }
    return {name: round(float(value), 4) for name, value in scores.items()}


def spectrum_lines(images, factor):
    """The share of a spectrum at the frequencies of an upsampling, and what lies around them; square roots.

    The middle half of images (N, H, W, C) under Hann's window, the mean subtracted; the lines are the multiples of 1 /
    factor (but for 0), with the bins that the window spreads them to, and "around" are as many bins beside them.
    """
    n = images.shape[1] // 2
    middle = images[:, n // 2 : n // 2 + n, n // 2 : n // 2 + n].astype(np.float64)
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
        experiment: module with NAME, SETTINGS (scale to steps and sizes) and run(variant, seed, settings).
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
            wanted = {"variant": variant, "seed": seed, "settings": settings}
            # Read anew each time: two processes may share the work.
            if any(wanted.items() <= one.items() for one in read(experiment.NAME, folder)):
                continue
            began = time.perf_counter(), time.process_time()
            found = experiment.run(variant, seed, settings)
            seconds = {"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]}
            line = {
                **wanted, **found,
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "load": round(os.getloadavg()[0], 1), "machine": machine(),
            }  # fmt: skip
            with open(folder / f"{experiment.NAME}.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            say(f"{experiment.NAME}, {variant}, seed {seed}: {seconds['wall']:.0f} s, {found['scores']}")
