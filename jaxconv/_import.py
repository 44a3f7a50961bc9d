"""Modules that a user names on the command line."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def module_of(place: str) -> Any:
    """The module that MODULE (looked for in the working folder too) or FILE.py is.

    Raises:
        FileNotFoundError, ValueError: there is none, or it fails when it is imported.
    """
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise FileNotFoundError(f"{place} does not exist")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{place} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ValueError(f"{place} fails when it is imported: {type(error).__name__}: {error}") from error
        return module
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise ValueError(f"no module is called {place!r} (looked in {Path.cwd()} and where packages are)") from None
        raise ValueError(f"{place} needs a module that is missing: {error}") from None
    except Exception as error:
        raise ValueError(f"{place} fails when it is imported: {type(error).__name__}: {error}") from error
