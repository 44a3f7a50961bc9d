"""Losses of dense predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_index: int | None = None,
    class_weights: jax.Array | np.ndarray | None = None,
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

    >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0]])
    >>> print(f"{cross_entropy(logits, jnp.array([0, 7]), ignore_index=7):.4f}")
    0.1269
    """
    counts = jnp.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    safe = jnp.where(counts, labels, 0)  # an ignored label may lie outside the classes
    # One-hot targets: the gradient of picking by index would be a scatter, slow on CPUs.
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), jax.nn.one_hot(safe, logits.shape[-1]))
    weights = counts.astype(jnp.float32)
    if class_weights is not None:
        weights = weights * jnp.asarray(class_weights, jnp.float32)[safe]
    return (losses * weights).sum() / jnp.maximum(weights.sum(), jnp.finfo(jnp.float32).tiny)


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
