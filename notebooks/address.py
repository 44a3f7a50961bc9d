"""Writes the address of a public repository where it is asked for, once there is one.

    python notebooks/address.py OWNER/NAME

Every notebook gets a badge that opens it in Colab, pyproject.toml its URLs, CITATION.cff its repository. Run again with
another address, it replaces the first one.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write(root, repository):
    """Write `repository`, OWNER/NAME on GitHub, into the checkout at `root`.

    Raises:
        ValueError: where it is no such name.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not OWNER/NAME of a repository on GitHub")
    page = f"https://github.com/{repository}"
    for path in sorted(root.glob("notebooks/*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = notebook["cells"][0]["source"]
        where = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
        badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({where})"
        first[:] = [badge + "\n", "\n", *(first[2:] if first[0].startswith("[![Open in Colab]") else first)]
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    urls = f'[project.urls]\nRepository = "{page}"\nIssues = "{page}/issues"\nChangelog = "{page}/blob/main/CHANGELOG.md"\n\n'
    _replace(root / "pyproject.toml", r"(?:\[project\.urls\]\n(?:\w+ = .*\n)+\n)?(?=\[project\.scripts\])", urls)
    _replace(root / "CITATION.cff", r"(?:repository-code: .*\n)?(?=license:)", f'repository-code: "{page}"\n')


def _replace(path, pattern, text):
    path.write_text(re.sub(pattern, lambda _: text, path.read_text(encoding="utf-8"), count=1), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(ROOT, sys.argv[1])
