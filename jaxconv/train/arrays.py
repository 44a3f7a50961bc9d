"""Images in ``.npy`` files, mapped into memory and read where they are looked at."""

from pathlib import Path
from typing import Any

import numpy as np


def open_array(path: Path, what: str) -> np.ndarray:
    """The array of a ``.npy`` file, mapped into memory.

    Raises:
        FileNotFoundError, ValueError: missing or no array; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{what} {path} cannot be read: {error}") from None


def stretched(pixels: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Pixels in units of 8 bits, float32, from values whose black and white are ``value_range``."""
    black, white = value_range
    return ((pixels.astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))).astype(np.float32)


class Lazy:
    """An image (h, w, channels) in units of 8 bits, float32, whose values are computed where it is sliced."""

    def __init__(self, pixels: np.ndarray, value_range: tuple[float, float]):
        self._pixels, self._range = pixels, value_range
        self.shape, self.ndim, self.dtype = pixels.shape, pixels.ndim, np.dtype(np.float32)

    def __getitem__(self, where: Any) -> "Lazy":
        return Lazy(self._pixels[where], self._range)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return stretched(np.asarray(self._pixels), self._range).astype(dtype or np.float32, copy=False)


def read_array(path: str | Path, channels: int = 3, value_range: tuple[float, float] | None = None) -> Any:
    """The image of a ``.npy`` file as `jaxconv.train.reading.read_image` gives files, but read where it is sliced.

    Args:
        path: of an array (h, w), which all channels show, or (h, w, channels): 8 or 16 bits, or floats.
        channels: that the network takes.
        value_range: (black, white) in the array's values, where they are not 0 and all bits, or 0 and 1 of floats.

    Raises:
        FileNotFoundError, ValueError: missing, no such array, or values outside of 0..1 without a ``value_range``.
    """
    path = Path(path)
    pixels = open_array(path, "image")
    kind, legal = pixels.dtype, (pixels.dtype.kind == "f" or pixels.dtype in (np.uint8, np.uint16))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, channels) or not pixels.size or not legal:
        raise ValueError(
            f"image {path} is {kind} of shape {pixels.shape}; needed are (height, width, {channels}) or (height, "
            "width), of uint8, uint16 or floats"
        )
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], channels))
    if kind.kind == "f":
        low, high = np.inf, -np.inf
        for start in range(0, len(pixels), 256):
            band = pixels[start : start + 256]
            low, high = np.minimum(low, band.min()), np.maximum(high, band.max())  # NaN stays
        if not np.isfinite(high - low) or (value_range is None and not (low >= 0 and high <= 1)):
            raise ValueError(
                f"image {path} holds values {low:g}..{high:g}; floats are 0..1, or the run's value_range says which "
                "are black and white"
            )
    if value_range is None and kind == np.uint8:
        return pixels
    return Lazy(pixels, value_range or ((0.0, 1.0) if kind.kind == "f" else (0.0, 65535.0)))
