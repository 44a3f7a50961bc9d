"""The notebooks run from the first cell to the last, and are stored without outputs."""

import ast
import json
import pathlib
import re

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
NEEDS = {
    "01_convolution_arithmetic": ("PIL",),
    "02_matrix_and_operator": ("lineax", "skimage"),
    "03_receptive_field_and_gridding": ("flax", "skimage"),
    "04_upsampling_and_checkerboard": ("skimage",),
}
SAYS = {
    "01_convolution_arithmetic": "refused",
    "03_receptive_field_and_gridding": "found   (1, 1, 1, 1, 2, 6)",
    "04_upsampling_and_checkerboard": "rank correlation 0.",
}


def code_cells(path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return cells, ["".join(c["source"]) for c in cells]


def show(value):
    """What a notebook does with the value of a cell's last line."""
    if hasattr(value, "savefig"):
        value.canvas.draw()
    elif hasattr(value, "_repr_html_"):
        assert value._repr_html_()


def run(source, names, where):
    # Magics are for notebooks only; the first cell's install is guarded and does not run here.
    lines = [re.sub(r"^(\s*)%.*", r"\1pass", line) for line in source.splitlines()]
    tree = ast.parse("\n".join(lines), where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if last is not None:
        show(eval(compile(ast.Expression(last.value), where, "eval"), names))


def test_there_are_notebooks():
    assert [p.stem for p in NOTEBOOKS][: len(NEEDS)] == list(NEEDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stored_without_outputs(path):
    cells, sources = code_cells(path)
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells)
    assert "%pip install" in sources[0] and "find_spec" in sources[0]


# The last two train and measure for a minute: they run with the sweeps.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n[:2] in ("03", "04") else n for n in NEEDS]
)
def test_notebook_runs(name, tmp_path, monkeypatch, capsys):
    for module in ("matplotlib", *NEEDS[name]):
        pytest.importorskip(module)
    import matplotlib

    monkeypatch.chdir(tmp_path)
    path = next(p for p in NOTEBOOKS if p.stem == name)
    names = {"__name__": "__main__"}
    with matplotlib.rc_context():
        for number, source in enumerate(code_cells(path)[1]):
            run(source, names, f"{path.name}, code cell {number}")
    assert SAYS.get(name, "") in capsys.readouterr().out
