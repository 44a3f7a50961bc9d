"""The command `jaxconv explain`: find the network, analyse it, print, write the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconv._extras import need
from jaxconv._text import printable
from jaxconv.explain.collect import explain
from jaxconv.explain.page import write_page
from jaxconv.explain.target import resolve
from jaxconv.explain.terminal import show


def explain_command(
    what: str,
    *,
    shape: Sequence[int] | None = None,
    image: Path | None = None,
    out: Path | None = None,
    spatial_axes: Sequence[int] | None = None,
    output: int | None = None,
    tile: int | None = None,
    input_range: tuple[float, float] | None = None,
    console: Any = None,
) -> Path:
    """Explain a network in the terminal and as one HTML file, with its numbers as JSON beside it.

    Args:
        what: run folder, model name, NAME.onnx, MODULE:NAME or FILE.py:NAME (see `jaxconv.explain.target.resolve`).
        shape: shape of the image.
        image: picture to draw the receptive field on.
        out: the HTML file; explain.html in a run folder, else NAME-explain.html here.
        spatial_axes: spatial axes of the image.
        output: which output is meant, where there are several.
        tile: tile size that the advice is for; 512, and 96 for a volume.
        input_range: (lowest, highest) value that the network is made for.
        console: rich console to print on.

    Returns:
        The path of the page.

    Raises:
        ValueError, OSError: what was given cannot be explained; the message says why.
    """
    need("the page", "jinja2")
    from rich.console import Console

    if tile is not None and tile < 1:
        raise ValueError(f"--tile {tile} must be at least 1")
    console = console or Console()
    path = out or _default_path(what)
    if path.is_dir() or path.suffix == ".json":
        kind = "a folder" if path.is_dir() else "where the numbers go"
        raise ValueError(f"--out {path} is {kind}; give the name of an HTML file")
    doing = "reading the network"
    with Console(stderr=True).status(f"{doing} …") as status:

        def report(step: str) -> None:
            nonlocal doing
            doing = step
            status.update(f"{step} …")

        try:
            target = resolve(what, shape=shape, image=image, spatial_axes=spatial_axes, input_range=input_range)
            axes = target.spatial_axes if spatial_axes is None else spatial_axes
            found = explain(target, report=report, spatial_axes=axes, output=output, tile=tile)
            report("drawing")
            write_page(found, path)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"explain was stopped while {doing}; no page was written") from None
    show(found, console)
    said = f"wrote {path}, and its numbers as {path.with_suffix('.json').name}"
    console.print(printable(said), markup=False, highlight=False, soft_wrap=True)
    return path


def integers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Numbers with commas between them.

    >>> integers("--input", "1,64,64,3")
    (1, 64, 64, 3)
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise ValueError(f"{option} {text}: needed are whole numbers with commas between them") from None


def interval(option: str, text: str | None) -> tuple[float, float] | None:
    """Two numbers with a comma between them.

    Example:
        >>> interval("--input-range", "-1,1")
        (-1.0, 1.0)
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text}: needed are two numbers with a comma between them, such as 0,1") from None
    return low, high


def _default_path(what: str) -> Path:
    if Path(what).is_dir():
        return Path(what) / "explain.html"
    if what.endswith(".onnx"):
        return Path(f"{Path(what).stem}-explain.html")
    place, _, name = what.rpartition(":")
    return Path(f"{name.replace('.', '-') if place else what}-explain.html")
