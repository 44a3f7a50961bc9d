"""max_pool_with_argmax with TensorFlow's flattened indices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, boolean
from jaxconv.dialects.tensorflow._layout import Layout
from jaxconv.resampling import pooling
from jaxconv.resampling.windows import index_dtype

Steps = int | Sequence[int]


@in_one_program("input")
def max_pool_with_argmax(
    input: ArrayLike,
    ksize: Steps,
    strides: Steps,
    padding: str,
    data_format: str = "NHWC",
    output_dtype: DTypeLike = "int64",
    include_batch_in_index: bool = False,
    name: str | None = None,
) -> tuple[Array, Array]:
    """tf.nn.max_pool_with_argmax.

    The index of the element at (n, y, x, c) is ``(y*W + x)*C + c``, or with the batch ``((n*H + y)*W + x)*C + c``. The
    first maximum wins; NaN wins over all (in TensorFlow on CPU only where it comes first).

    Args:
        input: (batch, H, W, C), real.
        ksize: window, an int, or 1, 2 or 4 ints.
        strides: as `ksize`.
        padding: "SAME" or "VALID".
        data_format: "NHWC", the only one.
        output_dtype: "int32" or "int64" (which is int32 where jax has no 64-bit types).
        include_batch_in_index: whether the index counts the batch.
        name: not used.

    Returns:
        Two arrays (batch, H', W', C): the maxima and their indices.

    Raises:
        ValueError: sizes, names and numbers of entries that do not fit, an empty input, more positions than the type
            of the index counts.
        TypeError: numbers that are not integers, complex data, an `include_batch_in_index` that is no bool.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = max_pool_with_argmax(jnp.arange(8.0).reshape(1, 2, 2, 2), 2, 2, "VALID")
        >>> i.ravel().tolist()
        [6, 7]

    Source: the TensorFlow documentation of tf.nn.max_pool_with_argmax.
    """
    x = array(input, "input")
    if data_format != "NHWC":
        raise ValueError(f"data_format={data_format!r} is not 'NHWC'")
    if x.ndim != 4:
        raise ValueError(f"max_pool_with_argmax takes (batch, H, W, channels), got shape {x.shape}")
    if 0 in x.shape:
        raise ValueError(f"max_pool_with_argmax takes no empty input, got shape {x.shape}")
    layout = Layout(2, True)
    window, stride = layout.steps(ksize, "ksize"), layout.steps(strides, "strides")
    dtype = jnp.dtype(output_dtype)
    if dtype not in (jnp.dtype("int32"), jnp.dtype("int64")):
        raise ValueError(f"output_dtype={output_dtype!r} is not int32 or int64")
    pads = layout.padding(padding, explicit=False)
    y, flat = pooling.max_pool(x, window, stride=stride, padding=pads, return_indices=True)
    _, height, width, channels = x.shape
    with_batch = boolean(include_batch_in_index, "include_batch_in_index")
    counted = x.shape if with_batch else x.shape[1:]
    if index_dtype(counted) == jnp.int64 and dtype == jnp.int32:
        raise ValueError(f"output_dtype={output_dtype!r} does not count the positions of {counted}; take 'int64'")
    flat = flat.astype(jax.dtypes.canonicalize_dtype(dtype))
    index = flat * channels + jnp.arange(channels, dtype=flat.dtype)
    if with_batch:
        index = index + jnp.arange(x.shape[0], dtype=flat.dtype)[:, None, None, None] * (height * width * channels)
    return y, index
