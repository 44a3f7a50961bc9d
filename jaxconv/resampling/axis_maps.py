"""Linear maps along one axis, static and sparse: at most T weighted reads for every output.

The transpose is a map of the same kind. How they are applied is in `jaxconv.resampling.axis_reads`.
"""

from functools import cached_property, lru_cache

import numpy as np

_LARGEST_FACTOR = 16  # of maps that are shifts; the factor bounds the size of the program


class AxisMap:
    """A linear map along one axis: out[o] = sum over j of weights[o, j] * x[taps[o, j]].

    Args:
      input_size: n.
      taps: (out, T), positions in 0 .. n - 1; repeated positions of a row add up.
      weights: (out, T), float64.

    Maps are immutable, compare by content and can be hashed: they are static arguments of jitted functions.
    """

    def __init__(self, input_size: int, taps: np.ndarray, weights: np.ndarray):
        taps, weights = np.asarray(taps, np.int64), np.asarray(weights, np.float64)
        if taps.ndim != 2 or taps.shape != weights.shape:
            raise ValueError(f"taps and weights must be two (out, T) arrays, got shapes {taps.shape}, {weights.shape}")
        if taps.size and (taps.min() < 0 or taps.max() >= input_size):
            raise ValueError(f"taps must lie in 0 .. {input_size - 1}, got {taps.min()} .. {taps.max()}")
        self.input_size, self.output_size = int(input_size), taps.shape[0]
        entry = np.arange(self.output_size)[:, None] * self.input_size + taps
        entries, inverse = np.unique(entry, return_inverse=True)
        sums = np.bincount(inverse.ravel(), weights.ravel(), len(entries))
        rows, columns = entries // self.input_size, entries % self.input_size
        keep = sums != 0
        self.taps, self.weights = _packed(rows[keep], columns[keep], sums[keep], self.output_size)
        self._key = (self.input_size, self.taps.shape, self.taps.tobytes(), self.weights.tobytes())
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AxisMap) and self._key == other._key

    def __repr__(self) -> str:
        return f"AxisMap({self.input_size} -> {self.output_size}, {self.taps.shape[1]} taps)"

    @cached_property
    def is_selection(self) -> bool:
        """Whether every output is a copy of one input."""
        return self.taps.shape[1] == 1 and bool((self.weights == 1).all())

    @cached_property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.repeats == 1

    @cached_property
    def repeats(self) -> int:
        """How often the map repeats each sample in turn; 0 if it is another map."""
        times, rest = divmod(self.output_size, self.input_size)
        if rest or not self.is_selection:
            return 0
        return times if (self.taps[:, 0] == np.arange(self.output_size) // times).all() else 0

    @cached_property
    def shifts(self) -> tuple[int, np.ndarray] | None:
        """(first, w) where out[p * r + i] = sum over k of w[k, p, i] * x[p + first + k]; x is zero beyond its ends.

        None for maps that do not enlarge by a whole factor r, or where another x[p + first + k] is in use at another p.
        """
        factor, rest = divmod(self.output_size, self.input_size)
        if rest or not 1 < factor <= _LARGEST_FACTOR:
            return None
        p = np.arange(self.input_size)
        row, slot = np.nonzero(self.weights)
        shift = self.taps[row, slot] - row // factor
        first, last = shift.min(initial=0), shift.max(initial=0)
        if last - first > self.taps.shape[1]:
            return None
        w = np.zeros((last - first + 1, self.input_size, factor))
        w[shift - first, row // factor, row % factor] = self.weights[row, slot]
        at = p + np.arange(first, last + 1)[:, None]
        inside = ((at >= 0) & (at < self.input_size))[:, :, None]
        used = (w != 0).any(axis=1, keepdims=True)
        return (int(first), w) if ((w != 0) == (inside & used)).all() else None

    @cached_property
    def transpose(self) -> "AxisMap":
        """The map whose matrix is the transpose."""
        rows = np.broadcast_to(np.arange(self.output_size)[:, None], self.taps.shape)
        keep = self.weights != 0
        taps, weights = _packed(self.taps[keep], rows[keep], self.weights[keep], self.input_size)
        return AxisMap(self.output_size, taps, weights)

    @property
    def entries(self) -> int:
        """Of the dense matrix."""
        return self.output_size * self.input_size

    def dense(self) -> np.ndarray:
        """The (out, in) matrix, float64."""
        matrix = np.zeros((self.output_size, self.input_size))
        np.add.at(matrix, (np.arange(self.output_size)[:, None], self.taps), self.weights)
        return matrix


def _packed(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries of a sparse matrix as (count, T) arrays; short rows repeat their first tap with weight zero."""
    order = np.lexsort((columns, rows))
    rows, columns, weights = rows[order], columns[order], weights[order]
    lengths = np.bincount(rows, minlength=count)
    begins = np.cumsum(lengths) - lengths
    slot = np.arange(len(rows)) - begins[rows]
    width = max(int(np.max(lengths, initial=0)), 1)
    first = np.zeros(count, np.int64)
    first[lengths > 0] = columns[begins[lengths > 0]]
    taps, packed = np.repeat(first[:, None], width, axis=1), np.zeros((count, width))
    taps[rows, slot], packed[rows, slot] = columns, weights
    return taps, packed


# --------------------------------------------------------------------------------------------------- maps by their rule
def interpolation_map(
    input_size: int,
    coordinates: np.ndarray,
    method: str = "linear",
    *,
    cubic_coeff: float = -0.75,
    widen: float = 1.0,
    outside: str = "clamp",
) -> AxisMap:
    """The interpolation matrix of one axis, for any source coordinates.

    Args:
      input_size: n.
      coordinates: (out,), where each output lies on the input's grid (sample i at coordinate i).
      method: "linear" or "cubic".
      cubic_coeff: a in Keys' cubic kernel.
      widen: the kernel is stretched by this factor (>= 1) to suppress aliasing, its weights scaled to sum to one.
      outside: taps beyond the ends read the nearest sample ("clamp"), or are left out and the remaining weights
        scaled to sum to one ("renormalise"), or count as zero ("zero").

    Returns:
      The map. Source: Keys 1981, "Cubic convolution interpolation for digital image processing", eq. (15).

    Raises:
      ValueError: for an unknown method or treatment of the outside.
    """
    if method not in ("linear", "cubic") or outside not in ("clamp", "renormalise", "zero"):
        raise ValueError(
            f"method={method!r} must be 'linear' or 'cubic', outside={outside!r} 'clamp', 'renormalise' or 'zero'"
        )
    x = np.asarray(coordinates, np.float64)
    reach = {"linear": 1, "cubic": 2}[method] * widen
    first = np.floor(x - reach).astype(np.int64) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * reach)))
    weights = _kernel((taps - x[:, None]) / widen, method, cubic_coeff)
    inside = (taps >= 0) & (taps < input_size)
    if outside == "renormalise":
        weights = np.where(inside, weights, 0.0)
    if outside == "renormalise" or widen != 1:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    if outside == "zero":
        weights = np.where(inside, weights, 0.0)
    return AxisMap(input_size, np.clip(taps, 0, input_size - 1), weights)


def _kernel(t: np.ndarray, method: str, a: float) -> np.ndarray:
    t = np.abs(t)
    if method == "linear":
        return np.maximum(1 - t, 0)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def selection_map(input_size: int, positions: np.ndarray) -> AxisMap:
    """The map that copies x[positions[o]] to output o; positions are clipped to the input."""
    taps = np.clip(np.asarray(positions, np.int64), 0, input_size - 1)[:, None]
    return AxisMap(input_size, taps, np.ones(taps.shape))


def area_map(input_size: int, output_size: int) -> AxisMap:
    """Adaptive average: output o is the mean of x[floor(o n / m)] .. x[ceil((o + 1) n / m) - 1]."""
    o = np.arange(output_size)
    begin, end = o * input_size // output_size, -(-(o + 1) * input_size // output_size)
    taps = begin[:, None] + np.arange(int(np.max(end - begin)))
    weights = np.where(taps < end[:, None], 1.0 / (end - begin)[:, None], 0.0)
    return AxisMap(input_size, np.minimum(taps, input_size - 1), weights)


@lru_cache(maxsize=1024)
def resize_map(
    input_size: int,
    output_size: int,
    method: str = "linear",
    *,
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | None = None,
    cubic_coeff: float | None = None,
) -> AxisMap:
    """The map of `resize` along one axis; `scale` (output over input) sets the coordinates where it is given."""
    o, n, m = np.arange(output_size), input_size, output_size
    if method == "area":
        return area_map(n, m)
    if method == "nearest":
        return selection_map(n, o * n // m if scale is None else np.floor(o / scale))
    if method == "nearest-exact":
        return selection_map(n, (2 * o + 1) * n // (2 * m) if scale is None else np.floor((o + 0.5) / scale))
    if align_corners:
        ratio = (n - 1) / (m - 1) if m > 1 else 0.0
        coordinates: np.ndarray = o * (n - 1) / max(m - 1, 1)
    else:
        ratio = n / m if scale is None else 1 / scale
        coordinates = (2 * o + 1) * n / (2 * m) - 0.5 if scale is None else (o + 0.5) / scale - 0.5
    if not antialias:
        a = -0.75 if cubic_coeff is None else cubic_coeff
        return interpolation_map(n, coordinates, method, cubic_coeff=a)
    a = -0.5 if cubic_coeff is None else cubic_coeff
    return interpolation_map(n, coordinates, method, cubic_coeff=a, widen=max(ratio, 1.0), outside="renormalise")
