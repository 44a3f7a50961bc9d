"""How a network learns: the optimiser and the schedule that a config names."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxconv.train.config import TrainConfig


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate of each step: a linear warm-up to the peak, then the schedule down to ``config.steps``."""
    peak, steps = config.learning_rate, config.steps
    warm = min(config.warmup_steps, steps - 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warm, steps)
    if config.schedule == "onecycle":  # the whole run is one cycle, with its peak where the warm-up ends
        return optax.cosine_onecycle_schedule(steps, peak, pct_start=max(warm, 1) / max(steps, 2))
    rest = {
        "poly": optax.polynomial_schedule(peak, 0.0, power=0.9, transition_steps=steps - warm),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warm), rest], [warm]) if warm else rest


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimiser of a config: gradients clipped by their global norm, weight decay on kernels only."""
    schedule, decay = make_schedule(config), config.weight_decay
    kernels = functools.partial(jax.tree.map, lambda p: p.ndim > 1)
    if config.optimiser == "sgd":
        sgd = optax.sgd(schedule, momentum=0.9, nesterov=True)
        steps = optax.chain(optax.add_decayed_weights(decay, mask=kernels), sgd)
    else:
        make: Callable[..., Any] = {"adamw": optax.adamw, "lion": optax.lion, "lamb": optax.lamb}[config.optimiser]
        steps = make(schedule, weight_decay=decay, mask=kernels)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), steps)
