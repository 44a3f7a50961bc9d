"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# What the examples of a module need beyond what the tests install.
NEEDS = {"jaxconv.convert.onnx_function": "onnx"}

# Names of the modules of jaxconv whose text holds an example.
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "jaxconv").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name, capsys, monkeypatch, tmp_path):
    pytest.importorskip(NEEDS.get(name, "jax"))
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0, capsys.readouterr().out


def test_examples_become_sections_of_the_reference():
    """With or without a heading: what has none would be shown as three block quotes."""
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("docstring_sections", ROOT / "docs" / "docstring_sections.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bare = "Say.\n\n>>> 1\n1\n\n>>> [2][0]\n2\n\nSource: a paper."
    assert module.with_headings(bare) == (
        "Say.\n\nExamples:\n    >>> 1\n    1\n\n    >>> [2][0]\n    2\n\nSource: a paper."
    )
    headed = "Say.\n\nExample:\n    >>> 1\n    1\n"
    assert module.with_headings(headed) == headed.replace("Example:", "Examples:")
