"""The tables and figures of docs/experiments, all made of the records."""

import io
import sys
from pathlib import Path

from PIL import Image

from benchmarks.experiments import page_bilinear, page_costs, page_networks, page_schedules, page_upsamplers
from benchmarks.write_tables import NotRecorded, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (*sorted((DOCS / "experiments").glob("*.md")), DOCS / "zh" / "experiments.md")
PICTURES = DOCS / "experiments"
PARTS = (page_schedules, page_upsamplers, page_bilinear, page_networks, page_costs)
TABLES = {name: made for part in PARTS for name, made in part.TABLES.items()}
FIGURES = {name: drawn for part in PARTS for name, drawn in part.FIGURES.items()}


def write(check=False):
    """Fill the pages and draw the figures; or say which page disagrees with the records."""
    for page in PAGES:
        old = page.read_text("utf-8")
        new = filled(old, TABLES)
        if check and new != old:
            sys.exit(f"{page.name} does not say what the records say: python -m benchmarks.experiments --pages")
        if not check:
            page.write_text(new, "utf-8")
    for name, draw in FIGURES.items():
        if check:
            break
        try:
            figure = draw()
        except NotRecorded:
            continue
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=72)
        Image.open(drawn).convert("RGB").quantize(64).save(PICTURES / f"{name}.png", optimize=True)
