"""What the numbers mean, in sentences; every change that is advised was put through the analysis first."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from jaxconv import analysis
from jaxconv._text import place_and_whole
from jaxconv.analysis.dilation.gridding import LayerGridding
from jaxconv.analysis.upsampling.checkerboard import Checkerboard, Fix, LayerOverlap
from jaxconv.explain.collect import Explanation

PROBLEM, NOTE, FINE = "problem", "note", "fine"


@dataclass(frozen=True)
class Finding:
    """One statement: `kind` is problem, note or fine; `fixes` are changes that were checked, each with its code."""

    kind: str
    title: str
    text: str
    fixes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


def findings(found: Explanation) -> list[Finding]:
    """All statements about a network, problems first.

    >>> import jax, jax.numpy as jnp, jaxconv as jc
    >>> from jaxconv.explain.collect import explain
    >>> from jaxconv.explain.target import Target
    >>> net = lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=2, dilation=2)
    >>> found = explain(Target("net", net, (jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32),)), draws=1)
    >>> [f.title for f in findings(found) if f.kind == "problem"]
    ['Holes: 36 % of the receptive field is used']
    """
    made = [
        *_size(found), *_holes(found), *_checkerboard(found), *_gradient(found), *_effective(found), *_global(found),
        *_notes(found),
    ]  # fmt: skip
    return sorted(made, key=lambda f: (PROBLEM, NOTE, FINE).index(f.kind))


def by(numbers: Sequence[object]) -> str:
    """13×13."""
    return "×".join(str(n) for n in numbers)


def percent(share: float) -> str:
    """A share as a percentage; what is not all is never rounded to it."""
    if share >= 1:
        return "100 %"
    return f"{min(100 * share, 99.9):.3g} %"


def layer_name(row: LayerGridding) -> str:
    """The layer as the user knows it: its path or line, else its kind and number."""
    return row.place or row.name


# ---------------------------------------------------------------------------------------------------------------- size
def _size(found: Explanation) -> list[Finding]:
    field = found.field
    text = (
        f"An output reads a box of {by(field.size)} input {found.place}s (nominal, as if the {found.whole} had no "
        "borders)"
    )
    over = [n for n, m in zip(field.size, field.input_size, strict=True) if n > m]
    of = f"of an input {found.place}" if max(field.stride) < 1 else f"input {found.place}s"
    still = " (0: the output does not move along that axis)" * (0 in field.stride)
    step = f"; one step of the output is {by(field.stride)} {of}{still}."
    made = [Finding(FINE, f"Receptive field {by(field.size)}", text + step)]
    if over:
        made.append(
            Finding(
                NOTE,
                f"The receptive field is larger than the {found.whole}",
                f"{by(field.size)} against {by(field.input_size)}: every output is influenced by the borders. Numbers "
                "that are cut at the borders (coverage, evenness, the effective field) would differ on larger "
                f"{found.whole}s.",
            )
        )
    return made


# --------------------------------------------------------------------------------------------------------------- holes
def _holes(found: Explanation) -> list[Finding]:
    if found.gridding is None:
        return [Finding(NOTE, "Gridding could not be read", found.failed.get("gridding", ""))]
    gridding = found.gridding
    opened = _list(_few([layer_name(layer) for layer in gridding.opens]))
    closed = _list(_few([layer_name(layer) for layer in gridding.closes]))
    if gridding.coverage >= 1:
        if parted := _parted(gridding.layers):
            return parted
        if not gridding.opens:
            return [Finding(FINE, "No holes", f"Every {found.place} of the receptive field reaches the output.")]
        return [
            Finding(
                FINE,
                "No holes in the end",
                f"Every {found.place} of the receptive field reaches the output: holes opened by {opened} are closed "
                f"by {closed or 'what is added to them'}.",
            )
        ]
    output = gridding.output
    used, total = int((output.counts > 0).sum()), output.counts.size
    grid = f" The {found.place}s that are used lie on a grid of period {by(output.period)}."
    period = grid if max(output.period) > 1 else ""
    text = (
        f"Only {used} of {total} {found.place}s ({percent(gridding.coverage)}) of the receptive field reach the output."
        f"{period} Opened by {opened or 'what the outputs skip'}"
        + (f"; partly closed by {closed}." if closed else "; no later layer closes the holes.")
    )
    fixes = tuple(fix for run in dilated_runs(gridding.layers) if (fix := rates_fix(run)))
    title = f"Holes: {percent(gridding.coverage)} of the receptive field is used"
    return [Finding(PROBLEM, title, text, *_columns(fixes))]


def _parted(rows: Sequence[LayerGridding]) -> list[Finding]:
    """Features that dilations with a common divisor part into grids, though all pixels reach the output.

    Overlapping windows of a strided layer close holes of the pixels; the grids of its features stay apart.
    """
    levels: dict[tuple[object, ...], list[LayerGridding]] = {}
    for row in rows:
        levels.setdefault((row.jump, row.output_size), []).append(row)
    made = []
    for level in levels.values():
        # What changes the resolution belongs to the level below: it is no way from one grid to another here.
        here = [row for row in level if set(row.stride) == {1} and set(row.base) <= {1}]
        axes = range(len(level[0].dilation))
        step = [gcd(*(row.dilation[a] for row in here if row.kernel[a] > 1)) for a in axes]
        if max(step, default=1) <= 1:
            continue
        fixes = tuple(fix for run in dilated_runs(here) if (fix := rates_fix(run)))
        names = _list(_few([layer_name(row) for row in here if max(row.kernel) > 1]))
        place, _ = place_and_whole(len(step))
        text = (
            f"Every {place} reaches the output, but the dilations of {names} are multiples of {by(step)}: they part "
            "the features there into grids that never meet, so that neighbouring outputs are decided apart from each "
            f"other. Trained networks show it as single {place}s and stripes."
        )
        made.append(Finding(PROBLEM, f"Features in grids of period {by(step)}", text, *_columns(fixes)))
    return made


def dilated_runs(rows: Sequence[LayerGridding]) -> list[list[LayerGridding]]:
    """Runs of convolutions at one resolution, with one dilation for all axes each, of which one is dilated."""
    runs: list[list[LayerGridding]] = [[]]
    for row in rows:
        chain = (
            row.kind == "conv"
            and len(set(row.kernel)) == len(set(row.dilation)) == 1
            and set(row.stride) == {1}
            and (not runs[-1] or runs[-1][-1].jump == row.jump)
        )
        if not chain:
            runs.append([])
        elif row.kernel[0] > 1:
            runs[-1].append(row)
    return [run for run in runs if any(row.dilation[0] > 1 for row in run)]


def rates_fix(run: Sequence[LayerGridding]) -> tuple[str, str] | None:
    """A schedule without holes for the same layers, of the same field where there is one, and its code; None where all
    is well.

    The most even one, small rates first: of trained networks of one field that was the best, and the same rates in
    descending order the worst, though no count knows an order (docs/experiments/schedules.md).
    """
    rates, kernels = [row.dilation[0] for row in run], [row.kernel[0] for row in run]
    now = analysis.check_rates(rates, kernels, rank=len(run[0].kernel))
    if now.ok:
        return None
    try:
        best: Sequence[analysis.RateCheck] = analysis.search_rates(
            len(run), kernels, receptive_field=now.receptive_field, top=1
        )
        if not best:
            widest = analysis.search_rates(len(run), kernels, max_rate=max(rates), top=1)
            best = [c for c in widest if c.receptive_field <= now.receptive_field]
    except ValueError:  # more schedules than can be compared
        return None
    if not best:
        return None
    after = analysis.check_rates(best[0].rates, kernels, rank=len(run[0].kernel))
    same = after.receptive_field == now.receptive_field
    field = f"the same field of {now.receptive_field}" if same else f"a field of {after.receptive_field}"
    better = ", ".join(str(r) for r in best[0].rates)
    code = (
        f'for w, rate in zip(kernels, ({better},)):\n    x = jax.nn.relu(jc.conv(x, w, padding="SAME", dilation=rate))'
    )
    place, _ = place_and_whole(len(run[0].kernel))
    small = "; keep small rates first, which no count sees" if len(set(after.rates)) > 1 else ""
    said = (
        f"from {layer_name(run[0])} on, dilation rates {better} in place of "
        f"{_list([str(r) for r in now.rates], '')}: {field} {place}s a side, of which {percent(after.coverage)} are "
        f"used instead of {percent(now.coverage)} (checked by counting{small})"
    )
    return said, code


def _columns(fixes: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sentences, and their code."""
    return tuple(said for said, _ in fixes), tuple(code for _, code in fixes)


# -------------------------------------------------------------------------------------------------------- checkerboard
def overlap_name(found: Explanation, layer: LayerOverlap) -> str:
    """The layer's path or line, and its number in the table where others stand at the same line."""
    assert found.board is not None
    name = layer.place or layer.name
    numbers = [n for n, other in found.overlaps.items() if other is layer]
    alone = sum(row.place == layer.place for row in found.gridding.layers) < 2 if found.gridding else True
    return name if alone or not numbers else f"layer {numbers[0] + 1} ({name})"


def pattern(board: Checkerboard) -> str:
    """The pattern on flat images: the one number that card, finding and section give."""
    return f"{board.pattern:.2g} (the output's spread: {board.spread:.2g})"


def _fix(found: Explanation, layer: LayerOverlap, fix: Fix) -> tuple[str, str]:
    """What a fix does to the number that the table gives for the layer, and its code."""
    anew = fix.name == "ICNR initialisation" and found.target.weights == "trained"
    said = (
        f"{'training anew from ' * anew}{fix.name}: {fix.measure} of {overlap_name(found, layer)} {fix.before:.2g} → "
        f"{fix.after:.2g}"
    )
    return said, _code(layer, fix, len(found.field.input_size))


def _code(layer: LayerOverlap, fix: Fix, rank: int) -> str:
    """How to write a fix."""
    scale, three = fix.factor, (3,) * rank
    if fix.name == "resize-convolution":
        return f'x = jc.resize(x, scale={scale}, method="nearest")\nx = jc.conv(x, w, padding="SAME")'
    if fix.name == "ICNR initialisation":
        return (
            f"init = jc.initializers.icnr(jax.nn.initializers.he_normal(), {scale})\n"
            f"conv = jc.nn.Conv(c_in, c_out * {scale**rank}, {three}, padding=1, kernel_init=init, rngs=rngs)\n"
            f"x = jc.pixel_shuffle(conv(x), {scale})"
        )
    kernel = (int(fix.name.rpartition(" ")[2]),) * rank
    return (
        f'up = jc.nn.ConvTranspose(c_in, c_out, {kernel}, stride={layer.stride}, padding="SAME", rngs=rngs)\nx = up(x)'
    )


def _checkerboard(found: Explanation) -> list[Finding]:
    board = found.board
    if board is None:
        return [Finding(NOTE, "Checkerboards could not be predicted", found.failed.get("checkerboard", ""))]
    made: list[Finding] = []
    uneven: dict[object, list[tuple[LayerOverlap, str, tuple[tuple[str, str], ...]]]] = {}
    drawn: dict[str, list[tuple[LayerOverlap, str, tuple[tuple[str, str], ...]]]] = {}
    grid = found.gridding.layers if found.gridding else ()
    resizes = [layer for number, layer in found.overlaps.items() if grid[number].kind == "resize"]
    for layer in board.layers:
        if layer in resizes:  # its weights add up to one everywhere: flat comes out flat
            continue
        name = overlap_name(found, layer)
        fixes = tuple(_fix(found, layer, f) for f in layer.fixes if f.after < f.before)
        if layer.counts > 0 and layer.name == "transposed convolution":
            uneven.setdefault((layer.kernel, layer.stride), []).append((layer, name, fixes))
        elif layer.added > 1e-3 and (layer.name in ("transposed convolution", "pixel shuffle") or not layer.kernel):
            drawn.setdefault(layer.reason, []).append((layer, name, fixes))
    for alike in uneven.values():
        names = _list([name for _, name, _ in alike])
        kernel = "the kernel" if len(alike) == 1 else "the kernels"
        its = "is not divisible by its stride" if len(alike) == 1 else "are not divisible by their stride"
        text = f"{_capital(alike[0][0].reason)}, so neighbouring outputs get more and less of it, in a fixed pattern."
        *_, fixes = max(alike, key=lambda each: len(each[-1]))
        made.append(Finding(PROBLEM, f"Checkerboard: {kernel} of {names} {its}", text, *_columns(fixes)))
    for reason, alike in drawn.items():
        trained = "" if found.target.weights == "trained" else "; training can remove it, but need not"
        text = (
            f"{_capital(reason)}. With the weights as they are, flat {found.whole}s with levels of {board.probed} come "
            f"out with a pattern of {pattern(board)}{trained}."
        )
        title = f"A pattern on flat {found.whole}s from {_list([name for _, name, _ in alike])}"
        *_, fixes = max(alike, key=lambda each: (len(each[-1]), each[0].added))  # said of the layer that adds most
        made.append(Finding(NOTE, title, text, *_columns(fixes)))
    if not made and resizes and board.score >= 1e-6:
        text = (
            f"What differs between the phases of flat {found.whole}s, a pattern of {pattern(board)}, comes from their "
            "borders: resizes interpolate it."
        )
        made.append(Finding(FINE, "No layer makes a checkerboard", text))
    if not made and board.score < 1e-6:
        made.append(Finding(FINE, "No checkerboard", "All phases of the output are treated alike."))
    return made


def _gradient(found: Explanation) -> list[Finding]:
    if found.board is None:
        return []
    uneven = [layer for layer in found.board.layers if layer.gradient > 0]
    if not uneven:
        return []
    alike: dict[str, list[str]] = {}
    for layer in uneven:
        alike.setdefault(layer.reason, []).append(overlap_name(found, layer))
    why = "; ".join(f"{_list(names)}: {reason}" for reason, names in alike.items())
    return [
        Finding(
            NOTE,
            "The gradient at the input is uneven",
            f"{why}. Some {found.place}s receive more gradient than their neighbours, which shows in "
            "saliency maps and when inputs are optimised; the outputs are not affected.",
        )
    ]


# ------------------------------------------------------------------------------------------------------------ the rest
def _effective(found: Explanation) -> list[Finding]:
    effective = found.effective
    if effective is None or effective.ratio is None:
        return []
    radius = " and ".join(f"{r:.1f}" for r in effective.radius)
    return [
        Finding(
            NOTE if effective.ratio < 0.1 else FINE,
            f"Effectively, {percent(effective.ratio)} of the receptive field decides",
            f"95 % of the gradient energy lies in {effective.area()} {found.place}s around the middle (standard "
            f"deviation {radius} {found.place}s), measured on inputs from {effective.probed} with the weights as "
            "they are.",
        )
    ]


def _global(found: Explanation) -> list[Finding]:
    if not found.field.global_ops:
        return []
    count = len(found.field.global_ops)
    reads, it = ("one operation reads", "it") if count == 1 else (f"{count} operations read", "them")
    listed = "; ".join(str(op) for op in found.field.global_ops)
    return [
        Finding(
            NOTE,
            f"Beyond these, {reads} the whole {found.whole}",
            f"{listed}. Every output depends on all {found.place}s through {it}; all other numbers say what is "
            "seen besides.",
        )
    ]


def _notes(found: Explanation) -> list[Finding]:
    skip = "beyond this field the output reads whole axes"
    remarks = [note for note in found.field.notes if not note.startswith(skip)]
    if found.board is not None:
        remarks += found.board.notes
    made = [Finding(NOTE, "What the numbers leave out", _capital("; ".join(remarks)) + ".")] if remarks else []
    named = {"gridding", "checkerboard", "tiling"}
    return made + [
        Finding(NOTE, f"Not measured: {name}", why) for name, why in found.failed.items() if name not in named
    ]


def _few(names: Sequence[str], most: int = 6) -> list[str]:
    """The first names, and how many more there are: the table has them all."""
    names = list(dict.fromkeys(names))
    return names if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} more"]


def _list(words: Sequence[str], last: str = " and ") -> str:
    words = list(dict.fromkeys(words)) if last else list(words)
    if len(words) < 2 or not last:
        return ", ".join(words)
    return ", ".join(words[:-1]) + last + words[-1]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
