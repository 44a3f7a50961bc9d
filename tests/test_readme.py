"""What the READMEs and the documentation show is run here, and what they point to is there.

A fence marked ``python`` is run, with the page's earlier fences before it; a ``text`` fence right after it is what it
prints. ``<!-- needs: NAME -->`` on the line before a fence says which package it needs beyond the test extra; where
that is missing the other fences run all the same, and the test counts as skipped.
"""

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LONG = {
    "visualise.md",
    "models.md",
    "matrix-and-operator.md",
    "volumes.md",
}  # and the Chinese pages, which run what the English ones do
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w+)[^\n]*\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)


def fences(page, kind=None):
    """The fences of a page as matches with groups mark, kind and body."""
    return [fence for fence in FENCE.finditer(page.read_text("utf-8")) if kind in (None, fence["kind"])]


def without_comments(code):
    return re.sub(r" *#[^\n]*", "", code)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in LONG or page.parent.name == "zh" else [])
        for page in (*READMES, *(page for page in PAGES if fences(page, "python")))
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_of_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    found, missing = fences(page), []
    for fence, following in zip(found, [*found[1:], None]):
        if fence["kind"] != "python":
            continue
        if fence["mark"] and fence["mark"].startswith("needs: "):
            absent = [p for p in fence["mark"].removeprefix("needs: ").split() if importlib.util.find_spec(p) is None]
            missing += absent
            if absent:
                continue
        line = page.read_text("utf-8")[: fence.start("body")].count("\n")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * line + fence["body"], str(page), "exec"), names)
        if (
            following is not None
            and following["kind"] == "text"
            and not page_text(page, fence.end(), following.start())
        ):
            assert out.getvalue() == following["body"]
    if missing:
        pytest.skip(f"ran all but the fences that need {', '.join(missing)}")


def page_text(page, start, stop):
    return page.read_text("utf-8")[start:stop].strip()


@pytest.mark.parametrize("kind", ["python", "bash"])
def test_readmes_show_the_same_code(kind):
    english, chinese = ([without_comments(fence["body"]) for fence in fences(page, kind)] for page in READMES)
    assert english == chinese


def test_readme_names_the_commands_that_ci_runs():
    marked = {fence["mark"]: fence["body"] for fence in fences(READMES[0], "bash") if fence["mark"]}
    steps = (ROOT / ".ci" / "steps.sh").read_text()
    assert set(marked) == {"command: train", "command: test"}
    for mark, body in marked.items():
        assert body.count("\n") == 1, "one line, so that it can be pasted"
        assert f"run_readme_command {mark.removeprefix('command: ')} " in steps


@pytest.mark.slow
def test_command_line_example_runs(tmp_path):
    (example,) = [fence["body"] for fence in fences(READMES[0], "bash") if not fence["mark"]]
    for line in example.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "jaxconv"
        done = subprocess.run(
            [sys.executable, "-c", "from jaxconv.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert re.search(r"^mIoU 0\.\d{4}$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    "page", [*READMES, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    missing = [
        link
        for link in links
        if not re.match(r"[a-z]+:|#", link) and not (page.parent / link.partition("#")[0]).exists()
    ]
    assert not missing
