"""Images and volumes in files of arrays: ``.npy``, mapped into memory and read where they are looked at, ``.npz``,
NIfTI, and the pages of a TIFF."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv._extras import need
from jaxconv.train.files import write_beside

NIFTI = (".nii", ".nii.gz")
ARRAYS = (".npy", ".npz", *NIFTI)
TIFF = (".tif", ".tiff")


def is_array(path: Path, rank: int = 2) -> bool:
    """Whether a file is read by `open_array`: so are TIFFs of volumes."""
    return path.name.lower().endswith((*ARRAYS, *TIFF) if rank == 3 else ARRAYS)


def name_of(path: Path) -> str:
    """The file's name without its suffix, which may be one of two parts.

    >>> name_of(Path("a/b.nii.gz")), name_of(Path("b.c.png"))
    ('b', 'b.c')
    """
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def open_array(path: Path, what: str) -> np.ndarray:
    """The array of a file: of ``.npy`` mapped into memory, of NIfTI turned to the axes right, front, up, of a TIFF
    (pages, height, width) or (pages, height, width, bands).

    Raises:
        FileNotFoundError, ValueError: missing or no array; the message names the file.
        ModuleNotFoundError: nibabel is needed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    name = path.name.lower()
    try:
        if name.endswith(NIFTI):
            found = np.asanyarray(_nifti(path).dataobj)
            return found.reshape(found.shape[:3] + tuple(n for n in found.shape[3:] if n > 1))  # time of one moment
        if name.endswith(TIFF):
            return _pages(path)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if len(found.files) != 1:
                raise ValueError(f"it holds the arrays {', '.join(found.files) or 'none'}; needed is one")
            return found[found.files[0]]
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{what} {path} cannot be read: {error}") from None


def _nifti(path: Path) -> Any:
    need("NIfTI", "nibabel")
    import nibabel

    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as file:  # as far as its checksum, which nibabel does not reach
            while file.read(1 << 20):
                pass
    image: Any = nibabel.load(path)
    if image.dataobj.offset < image.header.single_vox_offset:
        raise ValueError(f"its voxels would begin at byte {image.dataobj.offset}, which is in its header")
    return nibabel.as_closest_canonical(image)


def tiff_page(path: Path) -> tuple[int, Any] | None:
    """How many pages a TIFF has, and what the first one says of itself; None for all that tifffile does not read."""
    import tifffile

    if path.suffix.lower() not in TIFF:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            return len(file.pages), file.pages[0]
    except Exception:  # Pillow reads it, or says why not
        return None


def _pages(path: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        first: Any = file.pages[0]
        pages = np.stack([page.asarray() for page in file.pages])
    return np.moveaxis(pages, 1, -1) if first.samplesperpixel > 1 and int(first.planarconfig) == 2 else pages


def save_like(path: Path, source: Path, labels: np.ndarray) -> None:
    """Writes labels (*spatial) as ``path.nii.gz`` at the place in space of ``source``, where that is NIfTI; else as
    ``path.npy``."""
    nifti = source.name.lower().endswith(NIFTI) and labels.ndim == 3
    path = path.with_name(path.name + (".nii.gz" if nifti else ".npy"))
    if nifti:
        import nibabel

        image = nibabel.Nifti1Image(labels, _nifti(source).affine)
        write_beside(path, lambda p: nibabel.save(image, p))
    else:
        write_beside(path, lambda p: np.save(p, labels))


def stretched(pixels: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Pixels in units of 8 bits, float32, from values whose black and white are ``value_range``."""
    black, white = value_range
    return ((pixels.astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))).astype(np.float32)


class Lazy:
    """An image (*spatial, channels) in units of 8 bits, float32, whose values are computed where it is sliced."""

    def __init__(self, pixels: np.ndarray, value_range: tuple[float, float]):
        self._pixels, self._range = pixels, value_range
        self.shape, self.ndim, self.dtype = pixels.shape, pixels.ndim, np.dtype(np.float32)

    def __getitem__(self, where: Any) -> "Lazy":
        return Lazy(self._pixels[where], self._range)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return stretched(np.asarray(self._pixels), self._range).astype(dtype or np.float32, copy=False)
