"""Pooling, unpooling, resizing, shuffles, unfold and fold: what stands between convolutions, one linear map an axis."""

from jaxconv.resampling.pooling import avg_pool, max_pool, max_unpool
from jaxconv.resampling.resample import fold, pixel_shuffle, pixel_unshuffle, resize, unfold

__all__ = ["avg_pool", "fold", "max_pool", "max_unpool", "pixel_shuffle", "pixel_unshuffle", "resize", "unfold"]
