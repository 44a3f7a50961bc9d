"""Runs every analysis on a target and keeps what each one says, or why it could not say it."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any

import jax
import numpy as np

from jaxconv import analysis
from jaxconv._text import place_and_whole
from jaxconv.analysis import Checkerboard, EffectiveField, GradientField, Gridding, ReceptiveField
from jaxconv.analysis.dilation.gridding import LayerGridding, layerwise
from jaxconv.analysis.field.cost import BUDGET, Cost
from jaxconv.analysis.field.effective import measured
from jaxconv.analysis.field.gradient import Pullback
from jaxconv.analysis.field.inputs import inputs_for
from jaxconv.analysis.graph.sweep import alignments
from jaxconv.analysis.graph.trace import Traced, spatial_axes_of
from jaxconv.analysis.tiling.tiled import TILES
from jaxconv.analysis.upsampling.checkerboard import LayerOverlap, flat_records, predicted
from jaxconv.explain.target import Target

FLAT_IMAGES = 4
DRAWS = 8
LATENT = 16  # positions a side: what is no larger and is enlarged stands for a whole image already


@dataclasses.dataclass(frozen=True)
class TilingAdvice:
    """How to cut large images: pixels per axis; `work` is what all crops together compute, relative to the image."""

    tile: int
    align: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    crop: tuple[int, ...]
    keep: tuple[int, ...]
    work: float


@dataclasses.dataclass
class Explanation:
    """All that is known about a network; what could not be found is None, and `failed` says why.

    `overlaps` maps the number of a row of `gridding.layers` to that layer's part in the checkerboard.
    """

    target: Target
    field: ReceptiveField | GradientField
    gridding: Gridding | None = None
    board: Checkerboard | None = None
    effective: EffectiveField | None = None
    tiling: TilingAdvice | None = None
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.target.args[0].shape)

    @property
    def place(self) -> str:
        """What one place of the input is called: position, pixel or voxel."""
        return place_and_whole(len(self.field.input_size))[0]

    @property
    def whole(self) -> str:
        """What the input is called: signal, image or volume."""
        return place_and_whole(len(self.field.input_size))[1]

    @property
    def overlaps(self) -> dict[int, LayerOverlap]:
        if self.gridding is None or self.board is None:
            return {}
        return match(self.gridding.layers, self.board.layers)


def match(rows: Sequence[LayerGridding], layers: Sequence[LayerOverlap]) -> dict[int, LayerOverlap]:
    """Which row each layer of the checkerboard is: the next one at the same place with the same window."""
    found: dict[int, LayerOverlap] = {}
    for layer in layers:
        for number, row in enumerate(rows):
            steps = tuple(max(s, b) for s, b in zip(row.stride, row.base, strict=True))
            same = row.place == layer.place and (
                not layer.kernel or (row.kernel, steps) == (layer.kernel, layer.stride)
            )
            if not layer.kernel:  # pooling, unpooling and resizing have no kernel in the checkerboard's list
                same = same and row.kind in ("pool", "unpool", "resize")
            if same and number > max(found, default=-1):
                found[number] = layer
                break
    return found


def explain(
    target: Target,
    *,
    spatial_axes: Sequence[int] | None = None,
    output: int | None = None,
    draws: int | None = None,
    tile: int | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> Explanation:
    """Run all analyses on a network.

    Args:
        target: what `resolve` found.
        spatial_axes: spatial axes of the image; all but the first and the last by default.
        output: which output is meant, where there are several.
        draws: number of random inputs for the effective receptive field; None for 8, fewer of a network that computes
            more than 5 billion multiply-adds.
        tile: tile in input pixels that the advice on tiling is for; None for 512, and 96 for a volume.
        report: is told the name of each step before it begins.

    Returns:
        An `Explanation`.

    Raises:
        ValueError, TypeError: the arguments do not fit the function.

    >>> from jaxconv.explain.target import Target
    >>> import jax, jax.numpy as jnp, jaxconv as jc
    >>> net = lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=2, dilation=2)
    >>> found = explain(Target("net", net, (jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32),)), draws=1)
    >>> found.field.size, found.gridding.coverage == 9 / 25
    ((5, 5), True)
    """
    options: dict[str, Any] = {"spatial_axes": spatial_axes, "output": output}
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}

    def step(name: str, run: Callable[[], Any], *, needed: bool = False) -> Any:
        report(name)
        start = time.perf_counter()
        try:
            return run()
        except Exception as error:
            if needed:
                raise
            # One analysis that does not fit (integers, one position, another primitive) does not end the others.
            failed[name] = f"{'' if isinstance(error, ValueError) else type(error).__name__ + ': '}{_first_line(error)}"
            return None
        finally:
            seconds[name] = time.perf_counter() - start

    fn, args = target.pure
    field = step("receptive field", lambda: analysis.receptive_field(fn, *args, **options), needed=True)
    whole = Explanation(target, field, failed=failed, seconds=seconds)
    axes = spatial_axes_of(args[0], spatial_axes)
    images = target.images
    inputs = inputs_for(args[0], axes, target.input_range if images is None else None, images)
    pullback = Pullback(fn, args, output)  # one gradient for both that measure it
    gradients = min(pullback.cost.affordable // 2, FLAT_IMAGES)
    draws = draws or min(pullback.cost.affordable, DRAWS)
    flat = inputs.flat(max(gradients, 2), seed=0)
    traced: Traced | str = field.traced if isinstance(field, ReceptiveField) else _not_understood(field)
    probe = partial(flat_records, fn, args, axes, output, traced, flat)
    # What XLA compiles and runs begins while Python reads the graph.
    compiled, probed = _beside(pullback.compile, probe)
    if isinstance(field, ReceptiveField):
        whole.gridding = step("gridding", lambda: layerwise(field))
    else:
        failed["gridding"] = _not_understood(field)
    latent = max(field.stride) < 1 and max(field.input_size) <= LATENT
    if not latent and max(field.input_size) > 1:  # nobody has a larger one
        size = tile or TILES.get(len(axes), TILES[3])
        whole.tiling = step("tiling", lambda: advise(target, field, size, spatial_axes, pullback.cost))
    step("compiling the gradient", compiled.exception)

    def board() -> Checkerboard:
        # What fails beside, where a `with` around has no hold, is done again.
        records = probe() if probed.exception() else probed.result()
        return predicted(records, args, axes, traced, inputs, pullback, flat[:gradients])

    whole.board = step("checkerboard", board)
    effective = step("effective receptive field", lambda: measured(field, pullback, axes, draws=draws, inputs=inputs))
    whole.effective = effective
    return whole


def _beside(*jobs: Callable[[], Any]) -> list[Future[Any]]:
    """What the jobs give, done one after the other in a thread that nobody waits for at the program's end."""
    futures: list[Future[Any]] = [Future() for _ in jobs]

    def work() -> None:
        for future, job in zip(futures, jobs, strict=True):
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return futures


def _not_understood(field: GradientField) -> str:
    return field.notes[0] if field.notes else "the function is not understood"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else "no reason given"


def advise(
    target: Target, field: Any, tile: int, spatial_axes: Sequence[int] | None, cost: Cost | None = None
) -> TilingAdvice:
    """Halo, alignment and cost of tiles of an image that is much larger than one crop.

    `cost` is the function's on its own image.

    Raises:
        analysis.TilingRefused: where no tile can have the whole image's values.
    """
    fn, (image, *rest) = target.pure
    axes = spatial_axes_of(image, spatial_axes)
    shape = list(image.shape)
    aligns = alignments(field.traced) if isinstance(field, ReceptiveField) else [1] * len(axes)
    for axis, size, align in zip(axes, field.size, aligns, strict=True):
        if shape[axis] == 1:
            continue  # a signal laid out as an image: nobody has more of that axis
        shape[axis] += -(-(8 * tile + 4 * int(size)) // align) * align  # congruent to a size that the function takes
    concrete = not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(rest))
    # Crops of random pixels are compared where that is cheap.
    verify = concrete and (cost is None or cost.equations < 300 and _work(cost, field, tile) < BUDGET / 5)
    run = analysis.tiled(fn, tile, spatial_axes=spatial_axes, verify=verify)
    try:
        plans, *_ = run.plan(jax.ShapeDtypeStruct(tuple(shape), image.dtype), *rest)
    except (TypeError, ValueError) as error:
        if isinstance(error, analysis.TilingRefused):
            raise
        larger = "×".join(str(shape[a]) for a in axes)
        raise analysis.TilingRefused(f"the network takes no larger input, such as {larger}: none to cut") from error
    before = tuple(-(-p.low * p.size // p.out_size) for p in plans)
    after = tuple(-(-(p.out_crop - p.high) * p.size // p.out_size) for p in plans)
    crop = tuple(p.crop for p in plans)
    keep = tuple(n - b - a for n, b, a in zip(crop, before, after, strict=True))
    work = float(np.prod([n / k for n, k in zip(crop, keep, strict=True)]))
    return TilingAdvice(tile, tuple(p.align for p in plans), before, after, crop, keep, work)


def _work(cost: Cost, field: Any, tile: int) -> float:
    """Multiply-adds of one crop: the function's own, by how much larger a crop is than its image."""
    return cost.multiply_adds * math.prod((f + tile) / n for f, n in zip(field.size, field.input_size, strict=True))
