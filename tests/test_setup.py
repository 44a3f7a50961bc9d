"""What an import costs, what it needs, and which way the imports inside the package go."""

import ast
import importlib
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxconv"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Imports go from a row to rows above it only; within a row, only inside one sub-package.
ROWS = (
    {"_checks", "_compat", "_extras", "_finite", "_hints", "_import", "_memory", "_text"},
    {"_eager", "_flax"},
    {"jaxprs", "lattice"},
    {"geometry"},
    {"_sizes", "padding", "resampling"},
    {"lowering"},
    {"native", "trilinear"},
    {"ops"},
    {"_accelerate", "accelerate", "initializers"},
    {"dialects"},
    {"linear", "analysis", "nn"},
    {"figures", "models"},
    {"benchmark", "train"},
    {"convert"},
    {"explain"},
    {"offline"},
    {"bench_commands"},
    {"cli"},  # and jaxconv/__main__.py, which calls it; the package itself imports nothing of its own at once
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
CORE = ("ops", "geometry", "linear", "resampling", "initializers", "dialects", "analysis")
EXTRAS = (
    "chex equinox flax grain haiku keras lineax matplotlib onnx optax orbax PIL rich safetensors skimage "
    "jinja2 tensorflow torch tyro"
).split()


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_in_only_jax_and_numpy():
    loaded = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    before = set(run_python(f"import sys, jax, jax.numpy, numpy; {loaded}").split())
    after = set(run_python(f"import sys, jax, jax.numpy, numpy; from jaxconv import *; {loaded}").split())
    assert after - before - set(sys.stdlib_module_names) == {"jaxconv"}


ABSENT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_core_works_where_no_extra_is_installed():
    present = [name for name in CORE if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()]
    code = f"""{ABSENT}
import importlib
import jax.numpy as jnp, jaxconv as jc
for name in {present!r}:
    importlib.import_module(f"jaxconv.{{name}}")
x, w = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
y = jc.conv(x, w, stride=2, padding=1)
print(y.shape, jc.conv_transpose(y, w, stride=2, padding=1, output_size=6).shape, *sys.modules)
"""
    out = run_python(code)
    assert out.startswith("(1, 3, 3, 4) (1, 6, 6, 2)")
    assert not {name.partition(".")[0] for name in out.split()} & set(EXTRAS)


def test_what_needs_an_extra_names_it():
    code = f"""{ABSENT}
import importlib.util, pydoc
found = importlib.util.find_spec
def absent(name, package=None):
    return None if name.partition(".")[0] in {EXTRAS!r} else found(name, package)
importlib.util.find_spec = absent
import jax.numpy as jnp, jaxconv as jc
A = jc.ConvOperator(jnp.ones((3, 1, 1)), 8, padding=1)
def main(*arguments):
    from jaxconv.__main__ import main
    sys.argv = ["jaxconv", *arguments]
    print("exit", main())
for use in (
    "import jaxconv.nn", "jc.nn.Conv", "import jaxconv.models.enet", "import jaxconv.convert", "jc.train.train",
    "jc.figures.fan", "A.lstsq(jnp.ones((8, 1)))", "A.pinv() @ jnp.ones((8, 1))", "A.as_lineax()",
):
    try:
        exec(use)
    except ModuleNotFoundError as error:
        print(f"{{use}}: {{error}}")
print("help", len(pydoc.render_doc(jc)) > 1000, "nn" in dir(jc))
sys.stderr = sys.stdout
main("train")
main("--version")
"""
    said = run_python(code).splitlines()
    assert [line[line.index("pip install") :] for line in said[:9]] == [
        f'pip install "jaxconv[{extra}]"'
        for extra in ("nn", "nn", "nn", "nn", "train", "figures", "operator", "operator", "operator")
    ]
    import jaxconv.native

    assert said[9:] == [
        "help True False",
        'jaxconv: the command line needs tyro, which comes with the extra "cli": pip install "jaxconv[cli]"',
        "exit 1",
        f"jaxconv {jaxconv.__version__}",
        f"CPU kernels: {jaxconv.native.status()}",
        "exit 0",
    ]


def test_extras_are_those_of_the_package():
    from jaxconv._extras import EXTRA_OF

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {"orbax": "orbax-checkpoint", "skimage": "scikit-image", "PIL": "pillow"}
    for module, extra in EXTRA_OF.items():
        names = [name.partition(">")[0] for name in extras[extra]]
        assert packages.get(module, module) in names, module


def test_public_names_are_there():
    import jaxconv

    assert jaxconv.__all__ == sorted(jaxconv.__all__)
    assert {"ConvGeometry", "conv", "conv_kernel", "conv_transpose"} <= set(jaxconv.__all__) <= set(dir(jaxconv))
    assert all(callable(getattr(jaxconv, name)) for name in jaxconv.__all__)


def test_version_is_that_of_the_package():
    import jaxconv

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert jaxconv.__version__ == settings["project"]["version"]


def test_unknown_name_is_an_attribute_error():
    import jaxconv

    with pytest.raises(AttributeError, match="convolve_all"):
        jaxconv.convolve_all  # noqa: B018  (the access is what is tested)


def home(path):
    """Top-level part of jaxconv that a file belongs to; "" for jaxconv/__init__.py."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if part.startswith("__") else part


def home_of_name(name):
    """The part of jaxconv that a name in the top-level namespace comes from."""
    found = getattr(importlib.import_module("jaxconv"), name, None)
    return getattr(found, "__module__", f"jaxconv.{name}").split(".")[1]


def imported_parts(path):
    """(line, part of jaxconv) for every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "jaxconv"]
        elif isinstance(node, ast.ImportFrom):
            inside = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join((*inside, *filter(None, [node.module])))
            names = [f"{module}.{alias.name}" for alias in node.names if module.split(".")[0] == "jaxconv"]
        else:
            continue
        for name in names:
            part = (name.split(".") + [""])[1]
            yield node.lineno, part if part in ("", *ROW_OF) else home_of_name(part)


def test_every_part_has_a_row():
    assert {home(path) for path in SOURCES} - {""} <= set(ROW_OF)


def test_imports_go_downwards():
    upwards = [
        f"{path.relative_to(ROOT)}:{line} imports jaxconv.{other}"
        for path in SOURCES
        for line, other in imported_parts(path)
        if other and home(path) not in ("", other) and not ROW_OF.get(other, len(ROWS)) < ROW_OF[home(path)]
    ]
    assert not upwards


# The rooms inside a sub-package, in the same order: from a room to those before it only.
ROOMS = {"analysis": ({"graph"}, {"field"}, {"dilation", "tiling", "units", "upsampling"})}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_inside_a_part_import_downwards(package):
    row_of = {name: row for row, names in enumerate(ROOMS[package]) for name in names}
    rooms = {path.name: path for path in (PACKAGE / package).iterdir() if (path / "__init__.py").exists()}
    assert set(rooms) == set(row_of)
    upwards = [
        f"{path.relative_to(ROOT)} imports {package}.{other}"
        for room, folder in rooms.items()
        for path in folder.rglob("*.py")
        for other in rooms_imported(path, package)
        if other != room and not row_of[other] < row_of[room]
    ]
    assert not upwards


def rooms_imported(path, package):
    """The rooms of a sub-package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            inside = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join((*inside, *filter(None, [node.module]))).split(".")
            if module[:2] == ["jaxconv", package] and len(module) > 2:
                yield module[2]


def test_matrix_is_an_independent_route():
    (matrix,) = (path for path in SOURCES if path.relative_to(PACKAGE).as_posix() == "linear/matrix.py")
    assert {part for _, part in imported_parts(matrix)} <= {"geometry", "padding", "_checks", "_hints"}


@pytest.mark.parametrize("folder", ["jaxconv", "tests", "benchmarks", "docs"])
def test_only_public_jax(folder):
    private = "jax." + "_src"
    files = [path for path in (ROOT / folder).rglob("*.py") if private in path.read_text()]
    assert not files


@pytest.mark.parametrize("room", ["analysis", "figures"])
def test_editors_see_the_names_that_load_on_first_use(room):
    """What type checkers read (`if TYPE_CHECKING:`) and what the interpreter reads (`_HOME`) are one table."""
    module = importlib.import_module(f"jaxconv.{room}")
    tree = ast.parse(pathlib.Path(module.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name: node.module.removeprefix(f"jaxconv.{room}.") for node in block.body for name in node.names}
    assert seen == module._HOME
