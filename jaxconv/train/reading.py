"""Image files and label maps as arrays, with nothing lost on the way."""

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import jaxconv as jc
from jaxconv.train.arrays import TIFF, Lazy, is_array, open_array, tiff_page
from jaxconv.train.record import COLOUR


def _open(path: Path, what: str) -> Any:
    """The decoded image, turned as its EXIF orientation says."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but below the limit
            with Image.open(path) as image:
                pages = getattr(image, "n_frames", 1)
                if pages > 1 and image.format != "MPO":  # MPO: a photograph and its preview
                    raise ValueError(
                        f"it holds {pages} pages; write each into a file of its own, or say that it is a volume: --set "
                        "crop=(DEPTH,HEIGHT,WIDTH)"
                    )
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{what} {path} is refused: {error}; if it is genuine, cut it into tiles, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except Exception as error:  # decoders raise whatever they stumble over
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{what} {path} cannot be read: {reason}") from None


def read_image(
    path: str | Path, channels: int = 3, value_range: tuple[float, float] | None = None, rank: int = 2
) -> np.ndarray:
    """Reads an image as (height, width, channels), or a volume as (depth, height, width, channels): gray (1), RGB (3)
    or its own bands, in units of 8 bits: black is 0, white 255.

    8-bit files come as uint8, others as float32 with all of their precision: 16-bit values v as ``v * 255 / 65535``,
    floats of 0..1 as ``255 * v``.

    Args:
        path: of the file; its EXIF orientation is honoured. TIFF and files of arrays hold any number of bands.
        channels: 1, 3, or how many bands the file has.
        value_range: (black, white) in the file's own values, where they are others (12 bits: (0, 4095)).
        rank: 3 for volumes: .npy, .npz, NIfTI, or the pages of a TIFF.

    Raises:
        FileNotFoundError, ValueError: missing, unreadable, other bands, or floats outside of 0..1 without a
            ``value_range``; the message names the file.
    """
    return np.asarray(open_image(path, channels, value_range, rank))


def open_image(
    path: str | Path, channels: int = 3, value_range: tuple[float, float] | None = None, rank: int = 2
) -> Any:
    """As `read_image`, but what is in a file of an array is read where it is sliced."""
    path = Path(path)
    array = is_array(path, rank)
    if not array and rank == 3:
        raise ValueError(f"image {path} is no volume; those are .npy, .npz, .nii, .nii.gz or TIFF, as --set crop says")
    pixels = _array(path, channels, rank) if array else _decoded(path, channels)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], channels))
    kind = pixels.dtype.kind
    if kind != "u" or pixels.dtype.itemsize > 2:
        low, high = np.inf, -np.inf
        for start in range(0, len(pixels), 256):
            band = pixels[start : start + 256]
            low, high = np.minimum(low, band.min()), np.maximum(high, band.max())  # NaN stays
        finite, known = np.isfinite(high - low), value_range is not None or (kind == "f" and low >= 0 and high <= 1)
        if not finite and not array:
            raise ValueError(f"image {path} holds values that are not finite")
        if not finite or not known:
            said = "; floats are 0..1, others" if array else " of more than 8 bits;"
            raise ValueError(
                f"image {path} holds values {low:g}..{high:g}{said} say which are black and white, as --set "
                f"value_range=({low:g},{high:g})"
            )
    if value_range is None and pixels.dtype == np.uint8:
        return pixels
    return Lazy(pixels, value_range or ((0.0, 1.0) if kind == "f" else (0.0, 65535.0)))


def _array(path: Path, channels: int, rank: int) -> np.ndarray:
    """The pixels (*spatial, 1 or channels) of an array."""
    pixels = open_array(path, "image")
    kind = pixels.dtype
    if pixels.ndim == rank:
        pixels = pixels[..., None]
    if pixels.ndim != rank + 1 or pixels.shape[-1] not in (1, channels) or not pixels.size or kind.kind not in "uif":
        axes = "height, width" if rank == 2 else "depth, height, width"
        more = " (of volumes: --set crop=(DEPTH,HEIGHT,WIDTH))" if rank == 2 and pixels.ndim == 4 else ""
        raise ValueError(
            f"image {path} is {kind} of shape {pixels.shape}; needed are ({axes}, {channels}) or ({axes}), of numbers"
            f"{more}; --set channels=BANDS says how many bands there are"
        )
    return pixels


def _decoded(path: Path, channels: int) -> np.ndarray:
    """The pixels (height, width, 1 or channels) of an image file, in its own values."""
    pixels = _bands(path, channels)
    if pixels is None:
        image = _open(path, "image")
        deep = image.mode == "F" or image.mode.startswith("I")
        if not deep and channels in (1, 3):
            mode = "L" if channels == 1 else "RGB"
            image = image if image.mode == mode else image.convert(mode)  # which would copy it
        elif not deep and len(image.getbands()) != channels:
            raise ValueError(f"image {path} has {len(image.getbands())} bands, not {channels} (--set channels=3)")
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        if image.mode == "I" and image.format == "PNG":
            pixels = pixels.astype(np.uint16)
    if pixels.shape[-1] not in (1, channels):
        raise ValueError(f"image {path} has {pixels.shape[-1]} bands; say so: --set channels={pixels.shape[-1]}")
    return pixels


def _bands(path: Path, channels: int) -> np.ndarray | None:
    """The bands (h, w, bands) of a TIFF that Pillow would not read, or with 8 bits only; None for all others."""
    if (found := tiff_page(path)) is None:
        return None
    pages, page = found
    bands, kind = page.samplesperpixel, np.dtype(page.dtype)
    if pages > 1 or bands == 1 or (kind == np.uint8 and bands in (3, 4) and bands >= channels):
        return None
    if kind not in (np.uint8, np.uint16) and kind.kind != "f":
        return None
    try:
        (pixels,) = open_array(path, "image")
    except ValueError:  # Pillow says what it is
        return None
    if "Orientation" in page.tags and page.tags["Orientation"].value != 1:
        raise ValueError(f"image {path} is to be turned (its TIFF tag Orientation); save it as it is to be seen")
    return pixels


def read_labels(path: str | Path, colours: bool = False, rank: int = 2) -> np.ndarray:
    """Reads a label map as (height, width), int32 or uint8: one gray or palette channel, whose value is the class.
    Where there is a mask for each class, (height, width, classes).

    Args:
        path: of an image file that keeps every value, or of an array of whole numbers. Masks are the pages of a TIFF,
            its bands where they are no colours, or an array's last axis.
        colours: read colours instead, those of a palette too, as ``COLOUR + red * 65536 + green * 256 + blue``.
        rank: 3 for volumes (depth, height, width), whose slices are the pages of a TIFF.

    Raises:
        FileNotFoundError, ValueError: missing, unreadable, lossy, partly transparent, or a colour image that should not
            be; the message names the file.
    """
    path = Path(path)
    if is_array(path, rank) or _is_stack(path):
        values = _label_array(path, rank)
        if colours:
            raise ValueError(f"label map {path} has no colours, which --labels names")
        return values
    image = _open(path, "label map")
    if image.format in ("JPEG", "MPO"):
        raise ValueError(f"label map {path} is a JPEG, which changes values; needed is PNG, TIFF, BMP or .npy")
    if image.mode in ("LA", "PA", "RGBA"):
        if np.asarray(image.getchannel("A")).min(initial=255) < 255:
            raise ValueError(f"label map {path} is partly transparent; write a label there")
        image = image.convert({"LA": "L", "PA": "P"}.get(image.mode, "RGB"))
    if colours and image.mode in ("L", "P"):
        image = image.convert("RGB")
    if image.mode == "RGB" and colours:
        red, green, blue = np.moveaxis(np.asarray(image).astype(np.int32), -1, 0)
        return COLOUR + red * 65536 + green * 256 + blue
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
        raise ValueError(f"label map {path} has mode {image.mode}; needed is one channel whose value is the class")
    values = np.asarray(image)
    return values if values.dtype == np.uint8 else values.astype(np.int32)


def _is_stack(path: Path) -> bool:
    """Whether a TIFF has several pages, or bands that are no colours."""
    found = tiff_page(path)
    return found is not None and (found[0] > 1 or (found[1].samplesperpixel > 1 and found[1].photometric in (0, 1)))


def _label_array(path: Path, rank: int) -> np.ndarray:
    values = open_array(path, "label map")
    if rank == 2 and path.suffix.lower() in TIFF:
        values = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    if values.dtype.kind == "f" and (values == np.rint(values)).all() and (abs(values) < 2**62).all():
        values = values.astype(np.int64)  # as NIfTI has them
    if values.ndim not in (rank, rank + 1) or values.dtype.kind not in "iub" or not values.size:
        axes = "h, w" if rank == 2 else "d, h, w"
        raise ValueError(
            f"label map {path} is {values.dtype} of shape {values.shape}; needed are whole numbers ({axes}), or a mask "
            f"for each class ({axes}, classes)"
        )
    if values.min() < -(2**31) or values.max() >= 2**31:
        raise ValueError(f"label map {path} holds values {values.min()}..{values.max()}, which no class has")
    return values.astype(np.int32)


def label_counts(
    path: Path, colours: bool = False, rank: int = 2
) -> tuple[dict[int, int], tuple[int, ...], tuple[int, ...]]:
    """How many pixels each value of a label map has, its shape, and how many each of its masks has, where there are
    some; a file that stays is read once."""
    if not path.is_file():
        raise FileNotFoundError(f"label map {path} does not exist")
    state = path.stat()
    return _label_counts(path, colours, rank, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=100_000)
def _label_counts(path: Path, colours: bool, rank: int, *_: int) -> tuple[dict, tuple[int, ...], tuple[int, ...]]:
    labels = read_labels(path, colours, rank)
    values, counts = np.unique(labels, return_counts=True)
    masks = (labels != 0).sum(tuple(range(rank))).tolist() if labels.ndim > rank else ()
    return dict(zip(values.tolist(), counts.tolist(), strict=True)), labels.shape, tuple(masks)


def is_colour(path: Path) -> bool:
    """Whether a label map shows colours that no palette numbers."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in ("RGB", "RGBA") and image.format not in ("JPEG", "MPO")
    except Exception:  # named where it is read
        return False


def resize_image(image: Any, size: tuple[int, ...]) -> Any:
    """Resizes (*spatial, channels) to ``size`` linearly (antialiased when shrinking), if it has another size."""
    from PIL import Image

    if image.shape[:-1] == tuple(size):
        return image
    image = np.asarray(image)
    if len(size) == 3:
        return np.asarray(jc.resize(image.astype(np.float32), size, antialias=True))
    shape = (size[1], size[0])
    if image.dtype != np.uint8:  # Pillow has floats for one channel only
        planes = [
            Image.fromarray(image[..., c]).resize(shape, Image.Resampling.BILINEAR) for c in range(image.shape[2])
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(squeezed).resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(*size, image.shape[-1])


def resize_labels(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes a label map (*spatial), or masks (*spatial, classes), to ``size``, each pixel to its nearest.

    >>> resize_labels(np.array([[1, 2]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    if labels.shape[: len(size)] == tuple(size):
        return labels
    return labels[np.ix_(*((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, labels.shape)))]
