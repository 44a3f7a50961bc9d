"""The explanation as one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape as escape_html
from importlib import import_module
from pathlib import Path

import jax

from jaxconv._text import printable
from jaxconv.explain.collect import Explanation
from jaxconv.explain.findings import Finding, by, findings, pattern, percent
from jaxconv.explain.look import SCRIPT, STYLE
from jaxconv.explain.pictures import Picture, pictures
from jaxconv.explain.rows import HEADS, MEANINGS, rows
from jaxconv.explain.terminal import tiling_sentence

CONVENTIONS = {
    "path": "A way from an input pixel to the output through one tap of every layer. Channels are collapsed: a "
    "contraction over channels reads each distinct source once.",
    "pointwise work": "Reads each distinct source once: x · sigmoid(x) is one path, x + conv(x) adds up.",
    "concatenation": "Adds up when the channels are next mixed.",
    "pooling, resize, unpooling": "A pooling reads each position of its window once; a resize the support of its "
    "weights; an unpooling puts a value somewhere in the window that its index came from.",
    "nominal": "As if the image had no borders; seen is cut at the borders of this image.",
    "coverage": "Share of the box of what is seen that is read at all.",
    "evenness": "(Σc)² / (n Σc²) of the counts c over the box: 1 where all are equal.",
    "checkerboard counts": "(max − min) / mean of the paths into the phases of an upsampling, whatever the weights.",
    "pattern on flat images": "Root mean square of what differs between the phases of the output, in the output's own "
    "units, with the weights as they are; beside it the standard deviation of the output over the flat images.",
    "global operations": "What reads a whole axis (norms over space, global pooling, attention) is kept apart.",
}
TITLES = {
    "findings": "Findings",
    "field": "What an output sees",
    "layers": "Layer by layer",
    "gridding": "Holes along the way",
    "checkerboard": "Checkerboard",
    "effective": "Effective receptive field",
    "tiles": "Tiles",
    "conventions": "How to read the numbers",
}


def escape(text: str, quote: bool = True) -> str:
    """Text for the page, in elements and in attributes: no mark-up, and nothing that cannot be encoded."""
    return escape_html(printable(text), quote=quote)


def write_page(found: Explanation, path: str | Path) -> Path:
    """Write the page beside its place and rename it, so that it is never half-written."""
    from jaxconv.train.files import write_beside

    text = page(found)
    return write_beside(path, lambda p: p.write_text(text, encoding="utf-8"))


def page(found: Explanation) -> str:
    """The page as text.

    >>> import jax, jax.numpy as jnp, jaxconv as jc
    >>> from jaxconv.explain.collect import explain
    >>> from jaxconv.explain.target import Target
    >>> net = lambda x: jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=1)
    >>> text = page(explain(Target("net", net, (jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32),)), draws=1))
    >>> text.startswith("<!doctype html>"), "http" in text
    (True, False)
    """
    drawn = pictures(found)
    sections = {
        "findings": "".join(_finding(f) for f in findings(found)),
        "field": _figures(drawn.get("field", []) + drawn.get("counts", [])),
        "layers": _table(found),
        "gridding": _figures(drawn.get("gridding", [])),
        "checkerboard": _checkerboard(found, drawn),
        "effective": _figures(drawn.get("effective", [])),
        "tiles": _tiles(found),
        "conventions": _terms({**{k: v for k, v in MEANINGS.items() if rows(found)}, **CONVENTIONS}),
    }
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<li><a href="#{name}">{TITLES[name]}</a></li>' for name in sections)
    bodies = "".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{TITLES[name]}</h2>{body}</section>'
        for name, body in sections.items()
    )
    name = escape(found.target.name)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} explained</title><style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{name}</h1>{_lead(found)}{_cards(found)}"
        f'<nav aria-label="sections"><ul>{links}</ul></nav></header>\n<main>{bodies}</main>\n'
        f"<footer>{_foot(found)}</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


# ----------------------------------------------------------------------------------------------------------------- head
def _lead(found: Explanation) -> str:
    shape = by(found.image_shape)
    remarks = "".join(f"<br>Assumed: {escape(remark)}." for remark in found.target.remarks)
    return f'<p class="lead">An input of shape {shape}, read from the function itself.{remarks}</p>'


def _cards(found: Explanation) -> str:
    field = found.field
    out = f"output {by(field.output_size)}, step {by(field.stride)}"
    cards = [("Receptive field", by(field.size), "pixels, nominal"), ("Image", by(field.input_size), out)]
    if found.gridding is not None:
        output = found.gridding.output
        used, total = int((output.counts > 0).sum()), output.counts.size
        cards.append(("Used of it", percent(output.coverage), f"{used} of {total} pixels"))
        cards.append(("Evenness", f"{output.evenness:.2f}", "1: all pixels equally often"))
    if found.effective is not None:
        ratio = found.effective.ratio
        value = percent(ratio) if ratio is not None else f"{found.effective.area()} pixels"
        cards.append(("Effective field", value, "holds 95 % of the gradient energy"))
    if found.board is not None:
        spread = f"on flat images; the output's spread: {found.board.spread:.2g}"
        cards.append(("Checkerboard pattern", f"{found.board.pattern:.2g}", spread))
    cells = "".join(f"<div><dt>{a}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in cards)
    return f'<dl class="cards">{cells}</dl>'


def _foot(found: Explanation) -> str:
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in found.seconds.items())
    version = import_module("jaxconv").__version__
    return f"jaxconv {escape(version)}, jax {escape(jax.__version__)}. Time: {escape(seconds)}."


# ------------------------------------------------------------------------------------------------------------- sections
def _finding(finding: Finding) -> str:
    fixes = "".join(f"<li>{escape(fix)}</li>" for fix in finding.fixes)
    listed = f'<p class="remark">What helps, each checked by the same analysis:</p><ul class="fixes">{fixes}</ul>'
    return (
        f'<article class="finding {finding.kind}"><h3><span class="kind">{finding.kind}</span>'
        f"{escape(finding.title)}</h3><p>{escape(finding.text)}</p>{listed if fixes else ''}</article>"
    )


def _figures(drawn: Sequence[Picture]) -> str:
    return "".join(
        f'<figure><img src="{p.data}" width="{p.width}" height="{p.height}" alt="{escape(p.alt, quote=True)}">'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in drawn
    )


def _table(found: Explanation) -> str:
    made = rows(found)
    if not made:
        return ""
    words = {"layer", "operation", "holes", "checkerboard"}

    def css(head: str) -> str:
        return ' class="text"' if head in words else ""

    heads = "".join(
        f'<th scope="col"{css(h)}><button type="button" title="{escape(MEANINGS.get(h, h))}">{h}</button></th>'
        for h in HEADS
    )
    lines = []
    for row in made:
        cells = []
        for head, text, key in zip(HEADS, row.texts, row.keys, strict=True):
            tag = 'th scope="row"' if head == "layer" else "td"
            cells.append(f'<{tag}{css(head)} data-key="{escape(str(key), quote=True)}">{escape(text)}</{tag[:2]}>')
        marks = " ".join(sorted(row.marks))
        lines.append(f"<tr{f' class={chr(34)}{marks}{chr(34)}' if marks else ''}>{''.join(cells)}</tr>")
    return (
        '<p class="remark">Click on a head to sort. Red rows open holes or overlap unevenly, green rows close holes.'
        "</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="layers"><table class="sortable"><thead><tr>{heads}'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _checkerboard(found: Explanation, drawn: dict[str, list[Picture]]) -> str:
    if found.board is None:
        return ""
    board = found.board
    known = [("counts", board.counts), ("counts of the gradient", board.gradient_counts)]
    known.append(("gradient on flat cotangents", board.gradient_score))
    listed = "; ".join(f"{name} {value:.2g}" for name, value in known if value is not None)
    said = f"The pattern on flat images of {board.probed}: {pattern(board)}. Unevenness: {listed or 'not known'}."
    body = f"<p>{escape(said)} Zero is even.</p>" + _figures(drawn.get("overlap", []))
    each = drawn.get("upsamplers", [])
    return body + (f"<h3>Its transposed convolutions</h3>{_figures(each)}" if each else "")


def _tiles(found: Explanation) -> str:
    if found.tiling is None:
        why = found.failed.get("tiling")
        return f"<p>Large images cannot be cut exactly: {escape(why)}.</p>" if why else ""
    return f"<p>{escape(tiling_sentence(found))}</p>"


def _terms(terms: dict[str, str]) -> str:
    return (
        '<dl class="terms">' + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in terms.items()) + "</dl>"
    )
