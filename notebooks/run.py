"""Runs the notebooks and stores what their cells give, so that they can be read without being run.

    python notebooks/run.py [NAME ...]

Needs no Jupyter. Text is stored as printed, a figure as a small PNG, an animation as the PNG of its last frame, and
the digest of the code that gave them under ``metadata.jaxconv.ran``.
"""

import ast
import base64
import contextlib
import hashlib
import io
import json
import pathlib
import re
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?%?")


def load(path):
    """A notebook as a dictionary."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook):
    """Its code cells, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    """A cell's source as one string."""
    return "".join(cell["source"])


def digest(notebook):
    """Short digest of all code of a notebook: other code, other outputs."""
    return hashlib.sha256("\0".join(map(source, code_cells(notebook))).encode()).hexdigest()[:16]


def small_png(data):
    """A PNG with 64 colours, as base64."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").quantize(64).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def shown(value):
    """What Jupyter shows of the value of a cell's last line, as a bundle of MIME types."""
    if hasattr(value, "savefig"):
        out = io.BytesIO()
        value.savefig(out, format="png", dpi=64)
        return {"image/png": small_png(out.getvalue()), "text/plain": ["a figure"]}
    if hasattr(value, "to_jshtml"):
        from PIL import Image

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "animation.gif")
            value.save(path, writer="pillow", fps=2, dpi=64)
            out = io.BytesIO()
            with Image.open(path) as frames:
                frames.seek(frames.n_frames - 1)
                frames.convert("RGB").save(out, "PNG")
        return {"image/png": small_png(out.getvalue()), "text/plain": ["an animation; this is its last frame"]}
    return {"text/plain": repr(value).splitlines(keepends=True)}


def run_cell(code, names, where):
    """Run a cell; its outputs in the form of nbformat 4. Magics are left out: what they do is Jupyter's."""
    lines = [re.sub(r"^(\s*)%.*", r"\1pass", line) for line in code.splitlines()]
    tree = ast.parse("\n".join(lines), where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    outputs = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        outputs.append({"output_type": "display_data", "data": shown(value), "metadata": {}})
    return outputs


def run(path):
    """The outputs of each code cell of a notebook."""
    import matplotlib

    names = {"__name__": "__main__"}
    with matplotlib.rc_context():
        matplotlib.use("Agg")
        return [run_cell(source(c), names, f"{path.name}, {c['id']}") for c in code_cells(load(path))]


def text(outputs):
    """What a cell printed."""
    return "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")


def same_text(one, other, rtol=0.05, atol=1e-4):
    """Whether two texts say the same: equal words, and numbers that differ in their last digits only.

    In a line with " ms" or "loss" the numbers are times, or where a training went: any will do.
    """

    def number(token):
        return float(token.rstrip("%"))

    lines, others = one.splitlines(), other.splitlines()
    if len(lines) != len(others):
        return False
    for a, b in zip(lines, others):
        if [s.split() for s in NUMBER.split(a)] != [s.split() for s in NUMBER.split(b)]:
            return False
        pairs = [(number(p), number(q)) for p, q in zip(NUMBER.findall(a), NUMBER.findall(b))]
        if (
            " ms" not in a
            and "loss " not in a
            and any(abs(p - q) > atol + rtol * max(abs(p), abs(q)) for p, q in pairs)
        ):
            return False
    return True


def store(path):
    """Run a notebook and write its outputs into it."""
    notebook = load(path)
    for number, (cell, outputs) in enumerate(zip(code_cells(notebook), run(path)), 1):
        cell.update(outputs=outputs, execution_count=number)
    notebook["metadata"]["jaxconv"] = {"ran": digest(notebook)}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for found in sorted(HERE.glob("*.ipynb")):
        if not wanted or found.stem in wanted:
            store(found)
            print(found.name, f"{found.stat().st_size / 1e3:.0f} kB")
