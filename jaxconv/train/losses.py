"""Losses of dense predictions, by name and in mixtures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Weights = jax.Array | np.ndarray | None


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, ignore_index: int | None = None, class_weights: Weights = None
) -> jax.Array:
    """Mean cross-entropy over labelled pixels, optionally weighted by class.

    ``sum_p v_p * (logsumexp(z_p) - z_p[y_p]) / sum_p v_p``, where ``v_p`` is the weight of class ``y_p`` (1 without
    weights) and 0 at ignored pixels; 0 if no pixel counts.

    Args:
        logits: (..., classes) scores z.
        labels: (...) integers y.
        ignore_index: label of pixels that do not count.
        class_weights: (classes,) weights.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: labels are no classes.

    >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0]])
    >>> print(f"{cross_entropy(logits, jnp.array([0, 7]), ignore_index=7):.4f}")
    0.1269
    """
    return focal(logits, labels, ignore_index=ignore_index, class_weights=class_weights, gamma=0.0)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_index: int | None = None,
    class_weights: Weights = None,
    gamma: float = 2.0,
) -> jax.Array:
    """Cross-entropy in which pixels that are right already count less.

    ``sum_p v_p * (1 - q_p)^gamma * -log(q_p) / sum_p v_p`` with ``q_p = softmax(z_p)[y_p]`` and ``v_p`` as in
    `cross_entropy`.

    Args and what is raised are those of `cross_entropy`, which ``gamma`` 0 is.

    >>> print(f"{focal(jnp.array([[2.0, 0.0]]), jnp.array([0])):.5f}")
    0.00180

    Source: Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, equation 4.
    """
    if labels.ndim != logits.ndim - 1:
        raise ValueError(
            f"labels {labels.shape} of logits {logits.shape} are no classes; several at once are sigmoid's"
        )
    targets, counted = _targets(logits, labels, ignore_index)
    # One-hot targets: the gradient of picking by index would be a scatter, slow on CPUs.
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)
    if gamma:
        losses *= jnp.maximum(-jnp.expm1(-losses), jnp.finfo(jnp.float32).tiny) ** gamma
    weights = counted[..., 0] if class_weights is None else targets @ jnp.asarray(class_weights, jnp.float32)
    return _mean(losses, weights)


def sigmoid(
    logits: jax.Array, labels: jax.Array, *, ignore_index: int | None = None, class_weights: Weights = None
) -> jax.Array:
    """Binary cross-entropy of each class on its own, for pixels that have several classes, or none.

    ``sum_pc v_pc * (log(1 + exp(z_pc)) - t_pc * z_pc) / sum_pc v_pc``, where ``v_pc`` is the weight of class c, and 0
    where the label is ignored.

    Args are those of `cross_entropy`, but that labels may be (..., classes) of 0 and 1.

    >>> print(f"{sigmoid(jnp.array([[2.0, 0.0]]), jnp.array([[1, 9]]), ignore_index=9):.4f}")
    0.1269
    """
    targets, counted = _targets(logits, labels, ignore_index)
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)
    return _mean(losses, counted if class_weights is None else counted * jnp.asarray(class_weights, jnp.float32))


def dice(
    logits: jax.Array, labels: jax.Array, *, ignore_index: int | None = None, class_weights: Weights = None
) -> jax.Array:
    """One minus the soft Dice coefficient of the classes that occur, over all counted pixels of a batch.

    ``1 - sum_c v_c * D_c / sum_c v_c`` with ``D_c = 2 sum_p q_pc t_pc / sum_p (q_pc + t_pc)`` and ``v_c`` the weight of
    class c, 0 where no pixel has it; 0 if no pixel counts.

    Args are those of `sigmoid`; q is the softmax of the logits, or their sigmoid where labels are (..., classes).

    >>> print(f"{dice(jnp.array([[9.0, 0.0], [0.0, 9.0]]), jnp.array([0, 1])):.4f}")
    0.0001

    Source: Milletari et al., "V-Net", arXiv:1606.04797, section 3, without the squares.
    """
    targets, q = _targets_and_probabilities(logits, labels, ignore_index)
    axes = tuple(range(logits.ndim - 1))
    hits, size = (q * targets).sum(axes), targets.sum(axes)
    return _over_classes(1 - 2 * hits / jnp.maximum(q.sum(axes) + size, 1e-7), size, class_weights)


def lovasz(
    logits: jax.Array, labels: jax.Array, *, ignore_index: int | None = None, class_weights: Weights = None
) -> jax.Array:
    """The Lovasz extension of one minus the intersection over union, for the classes that occur in a batch.

    ``sum_c v_c * sum_i e_(i) * (J_i - J_(i-1)) / sum_c v_c``, where ``e_(i)`` are the errors ``|t_pc - q_pc|`` from the
    largest on, and ``J_i`` is one minus the intersection over union if the first i pixels were wrong.

    Args are those of `sigmoid`; q is the softmax of the logits, or their sigmoid where labels are (..., classes).

    >>> print(f"{lovasz(jnp.array([[9.0, 0.0], [0.0, 9.0]]), jnp.array([0, 1])):.4f}")
    0.0001

    Source: Berman et al., "The Lovasz-Softmax loss", arXiv:1705.08790, equations 8 and 11, algorithm 1.
    """
    targets, q = _targets_and_probabilities(logits, labels, ignore_index)
    truth = targets.reshape(-1, logits.shape[-1]).T
    # Ignored pixels have no error: they come last and add nothing.
    errors = jnp.abs(truth - q.reshape(truth.shape[::-1]).T)
    falling, truth = jax.lax.sort((-errors, truth), num_keys=1)
    size = truth.sum(1)
    found = jnp.cumsum(truth, 1)
    jaccard = 1 - (size[:, None] - found) / (size[:, None] + jnp.cumsum(1 - truth, 1))
    steps = jnp.diff(jaccard, axis=1, prepend=0)
    return _over_classes((-falling * jax.lax.stop_gradient(steps)).sum(1), size, class_weights)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    loss.__name__: loss for loss in (cross_entropy, dice, focal, lovasz, sigmoid)
}


def make_loss(
    mixture: dict[str, float], ignore_index: int | None, class_weights: Weights, aux_weight: float
) -> Callable[[Any, jax.Array], jax.Array]:
    """The loss ``(outputs, labels)`` of a network that gives logits, or logits with those of auxiliary heads after.

    Args:
        mixture: name in `LOSSES` -> factor, as from `jaxconv.train.config.mixture`.
        ignore_index: label that does not count.
        class_weights: (classes,) weights, or None.
        aux_weight: factor of each auxiliary head's loss; smaller heads are resized to the labels.

    >>> loss = make_loss({"cross_entropy": 1.0}, None, None, 0.5)
    >>> logits, labels = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4), int)
    >>> print(f"{loss((logits, logits[:, ::2, ::2]), labels):.4f}")
    1.0397
    """
    import jaxconv as jc

    def one(logits: jax.Array, labels: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"ignore_index": ignore_index, "class_weights": class_weights}
        return sum((share * LOSSES[name](logits, labels, **options) for name, share in mixture.items()), jnp.zeros(()))

    def loss(outputs: Any, labels: jax.Array) -> jax.Array:
        if not isinstance(outputs, (tuple, list)):
            return one(outputs, labels)
        size = outputs[0].shape[1:-1]
        heads = [head if head.shape[1:-1] == size else jc.resize(head, size) for head in outputs[1:]]
        return one(outputs[0], labels) + aux_weight * sum((one(head, labels) for head in heads), jnp.zeros(()))

    return loss


def _targets(logits: jax.Array, labels: jax.Array, ignore_index: int | None) -> tuple[jax.Array, jax.Array]:
    """What each logit should be, 0 or 1, with 0 where it does not count; and whether it counts, as numbers."""
    counts = jnp.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    safe = jnp.where(counts, labels, 0)  # an ignored label may lie outside the classes
    if labels.ndim == logits.ndim:
        return (safe * counts).astype(jnp.float32), counts.astype(jnp.float32)
    counted = counts[..., None].astype(jnp.float32)
    return jax.nn.one_hot(safe, logits.shape[-1]) * counted, jnp.broadcast_to(counted, logits.shape)


def _targets_and_probabilities(
    logits: jax.Array, labels: jax.Array, ignore_index: int | None
) -> tuple[jax.Array, jax.Array]:
    targets, counted = _targets(logits, labels, ignore_index)
    probabilities = jax.nn.sigmoid if labels.ndim == logits.ndim else jax.nn.softmax
    return targets, probabilities(logits.astype(jnp.float32)) * counted


def _mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    return (losses * weights).sum() / jnp.maximum(weights.sum(), jnp.finfo(jnp.float32).tiny)


def _over_classes(losses: jax.Array, size: jax.Array, class_weights: Weights) -> jax.Array:
    """The mean over the classes that have pixels."""
    there = (size > 0).astype(jnp.float32)
    return _mean(losses, there if class_weights is None else there * jnp.asarray(class_weights, jnp.float32))


def enet_class_weights(pixel_counts: np.ndarray, c: float = 1.02) -> np.ndarray:
    """ENet's weights against unbalanced classes: ``1 / ln(c + p)`` with p the share of a class's pixels.

    Args:
        pixel_counts: (classes,) how many pixels each class has.
        c: bounds the weights: 1.02 keeps them within 1..50.

    Returns:
        (classes,) float32.

    >>> enet_class_weights(np.array([98, 2])).astype(float).round(2).tolist()
    [1.44, 25.5]

    Reference: Paszke et al., arXiv:1606.02147, section 5.2.
    """
    share = np.asarray(pixel_counts, np.float64) / max(1, np.sum(pixel_counts))
    return (1 / np.log(c + share)).astype(np.float32)
