"""What a training step of each variant costs: processor time on this machine, cycles that a TPU's compiler expects."""

import functools
import os
import time

import jax
import numpy as np
from flax import nnx

from benchmarks.experiments import bilinear, schedules, upsamplers
from benchmarks.experiments.common import cross_entropy, examples, training_step
from jaxconv.offline.devices import read_target
from jaxconv.offline.hlo import figures

NAME = "costs"
SETTINGS = {
    "full": {"repeats": 30, "target": "v5e:2x2"},
    "reduced": {"repeats": 3, "target": "v5e:2x2"},
    "smallest": {"repeats": 1, "target": "v5e:2x2"},
}
TASKS = [
    f"{one.NAME}: {name}"
    for one, part in ((schedules, "; backbone"), (upsamplers, ""), (bilinear, ""))
    for name in one.VARIANTS
    if part in name
]
# A seed is a round over all tasks: the least of the rounds counts.
VARIANTS = [f"{unit}; {name}" for unit in ("CPU", "TPU") for name in TASKS]
ONCE = VARIANTS[len(TASKS) :]
FEW = VARIANTS[: len(TASKS) : 8]


def task(variant):
    """(model, pairs, loss, frozen) of a variant as its experiment trains it."""
    experiment, _, name = variant.partition(": ")
    kind, _, where = name.partition("; ")
    rngs, pairs = nnx.Rngs(0), examples("train", 0, 8)
    if experiment == schedules.NAME:
        return schedules.Stack(kind, where, schedules.SETTINGS["full"]["width"], rngs), pairs, cross_entropy, ()
    if experiment == bilinear.NAME:
        model = bilinear.FCN(kind, bilinear.SETTINGS["full"]["width"], rngs)
        return model, pairs, cross_entropy, ("up",) if kind == "frozen" else ()
    width = upsamplers.SETTINGS["full"]["width"]
    if where == "unet":
        return upsamplers.UNet(kind, width, rngs), pairs, cross_entropy, ()
    return upsamplers.Generator(kind, width, rngs), upsamplers.photographs("train", 0, 8), upsamplers.squared_error, ()


@functools.cache
def elsewhere(target):
    """A device of the accelerator; its compiler needs no accelerator."""
    found = read_target(target)
    os.environ |= found.environment
    return found.sharding()


def run(variant, seed, settings):
    """The least processor time of a step, or the cycles that the TPU's compiler expects."""
    unit, _, name = variant.partition("; ")
    model, pairs, loss, frozen = task(name)
    model.train()
    step, state = training_step(model, 400, loss, frozen=frozen)
    if unit == "TPU":
        try:
            sharding = elsewhere(settings["target"])
        except ModuleNotFoundError as problem:  # as data that are not here
            raise FileNotFoundError(str(problem)) from None
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), (*state, *pairs))
        found = figures(step.lower(*shapes).compile().as_text(), "tpu")
        return {"scores": {"thousands": round(found["cycles"] / 1e3, 1)}, "uncounted_bytes": found["uncounted_bytes"]}
    took = []
    for _ in range(settings["repeats"] + 2):
        began = time.process_time()
        *state, value = step(*state, *pairs)
        value.block_until_ready()
        took.append(time.process_time() - began)
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return {"scores": {"cpu_ms": round(1e3 * float(np.min(took[2:])), 2)}, "parameters": size}
