"""The notebooks run from the first cell to the last, and are stored with what their code gives."""

import importlib.util
import pathlib
import shutil
import tomllib

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NEEDS = {
    "01_convolution_arithmetic": (),
    "02_matrix_and_operator": ("lineax", "skimage"),
    "03_receptive_field_and_gridding": ("flax", "skimage"),
    "04_upsampling_and_checkerboard": ("skimage",),
    "05_train_segmentation": ("orbax.checkpoint", "rich", "skimage"),
    "06_generator": ("orbax.checkpoint", "rich", "skimage"),
    "07_many_devices": ("orbax.checkpoint", "rich", "skimage"),
    "08_accelerate_your_model": ("flax", "equinox", "haiku"),
}
SAYS = {
    "01_convolution_arithmetic": "refused",
    "03_receptive_field_and_gridding": "found   (1, 1, 1, 1, 2, 6)",
    "04_upsampling_and_checkerboard": "rank correlation 0.",
    "05_train_segmentation": "large_labels.png",
    "06_generator": "kernel 5: a flat input gives 0.160 to 0.360",
    "07_many_devices": "still the same: True",
    "08_accelerate_your_model": "same loss and gradients: True",
}

_spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)


def test_there_are_notebooks():
    assert [p.stem for p in NOTEBOOKS] == list(NEEDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_outputs_are_of_the_current_source(path):
    notebook = runner.load(path)
    cells = runner.code_cells(notebook)
    assert notebook["metadata"]["jaxconv"]["ran"] == runner.digest(notebook), "run: python notebooks/run.py"
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    kinds = {kind for c in cells for out in c["outputs"] for kind in out.get("data", {})}
    assert "image/png" in kinds


def test_a_changed_cell_is_noticed():
    notebook = runner.load(NOTEBOOKS[0])
    runner.code_cells(notebook)[-1]["source"].append("\n1")
    assert notebook["metadata"]["jaxconv"]["ran"] != runner.digest(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_first_cell_installs_from_a_checkout_or_the_index_and_keeps_jax(path):
    first = runner.source(runner.code_cells(runner.load(path))[0])
    assert "find_spec" in first and '%pip install -q "{tree}[' in first and '"{jax_here}"' in first


def test_an_address_is_written_once_wherever_it_is_asked_for(tmp_path):
    root = FOLDER.parent
    for name in ("pyproject.toml", "CITATION.cff", "notebooks/01_convolution_arithmetic.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("address", FOLDER / "address.py")
    address = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(address)
    before = runner.digest(runner.load(NOTEBOOKS[0]))
    for name in ("someone/first", "else/jaxconv"):
        address.write(tmp_path, name)
    notebook = runner.load(tmp_path / "notebooks" / NOTEBOOKS[0].name)
    text = runner.source(notebook["cells"][0])
    assert text.count("Open in Colab") == 1 and "github/else/jaxconv/blob/main/notebooks/01_" in text
    assert "\n# Convolution arithmetic" in text and runner.digest(notebook) == before
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    assert urls["Repository"] == "https://github.com/else/jaxconv"
    citation = (tmp_path / "CITATION.cff").read_text("utf-8")
    assert citation.count("repository-code") == 1 and "else/jaxconv" in citation
    with pytest.raises(ValueError, match="OWNER/NAME"):
        address.write(tmp_path, "https://github.com/else/jaxconv")


def test_they_are_small():
    assert sum(p.stat().st_size for p in NOTEBOOKS) < 2e6


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("norm: 1.2345 of 3\n", "norm: 1.2346 of 3\n", True),
        ("norm: 1.2345", "norm: 1.5", False),
        ("error 3e-8", "error  9.1e-08", True),
        ("rates (1, 2, 5)", "rates (1, 3, 5)", False),
        ("Flax: 103 ms before", "Flax: 9 ms before", True),
        ("a line\nmore", "a line", False),
        ("holes", "no holes", False),
        ("covers 29%", "covers 31%", False),
    ],
)
def test_same_text(one, other, same):
    assert runner.same_text(one, other) is same


# The others train or measure: they run with the sweeps, but for 07, whose runs on meshes are those of
# test_train_devices.py.
@pytest.mark.parametrize(
    "name", [n if n[:2] == "01" else pytest.param(n, marks=pytest.mark.slow) for n in NEEDS if n[:2] != "07"]
)
def test_notebook_gives_what_is_stored(name, tmp_path, monkeypatch):
    for module in ("matplotlib", "PIL", *NEEDS[name]):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    path = FOLDER / f"{name}.ipynb"
    stored, given = runner.code_cells(runner.load(path)), runner.run(path)
    for cell, outputs in zip(stored, given, strict=True):
        before, after = runner.text(cell["outputs"]), runner.text(outputs)
        if before.startswith("on "):  # whatever jax computes on here
            continue
        assert runner.same_text(before, after), f"{cell['id']}\n{before}\n{after}"
        assert [o["output_type"] for o in cell["outputs"]] == [o["output_type"] for o in outputs]
    assert SAYS.get(name, "") in "".join(map(runner.text, given))
