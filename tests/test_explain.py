"""`jaxconv explain`: the page and the terminal say what the analysis says, and errors say what was wrong."""

import base64
import dataclasses
import html
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("rich")
pytest.importorskip("tyro")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import jaxconv as jc  # noqa: E402
from jaxconv.cli import main  # noqa: E402
from jaxconv.explain.collect import explain, match  # noqa: E402
from jaxconv.explain.findings import _holes, findings, rates_fix  # noqa: E402
from jaxconv.explain.page import page, write_page  # noqa: E402
from jaxconv.explain.record import record  # noqa: E402
from jaxconv.explain.rows import HEADS, rows  # noqa: E402
from jaxconv.explain.target import Target, resolve  # noqa: E402
from jaxconv.models import REGISTRY  # noqa: E402

SOURCE = """
import jax, jax.numpy as jnp, jaxconv as jc

def stack(x):
    for rate in (2, 2, 2):
        x = jc.conv(x, jnp.ones((3, 3, x.shape[-1], 2)) / 9, padding="SAME", dilation=rate)
    return x

def generator():
    w = jax.random.normal(jax.random.key(0), (3, 3, 4, 4))
    def up(x):
        for _ in range(2):
            x = jc.conv_transpose(x, w, stride=2, padding="SAME")
        return x
    return up, jax.ShapeDtypeStruct((1, 12, 12, 4), jnp.float32)

def wrong():
    return 3

class Net:
    pass

def first(x):  # channels first, with a mean over the image
    return x - x.mean((2, 3), keepdims=True) + jnp.roll(x, 1, 2)

number = 5
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_to_explain.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nets_to_explain", None)
    return tmp_path


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order and collects what the tests ask for."""

    VOID = ("meta", "img", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.ids, self.cells, self.texts = [], [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        if "href" in found:
            self.links.append(found["href"])
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1].append(data)


def dilated(x):
    for rate in (2, 2, 2, 1):
        w = jnp.arange(18.0 * x.shape[-1]).reshape(3, 3, -1, 2) / 40
        x = jc.conv(x, w, padding="SAME", dilation=rate)
    return x


@pytest.fixture(scope="module")
def explained():
    picture = np.random.default_rng(0).integers(0, 256, (40, 32, 1)).astype(np.uint8)
    target = Target("dilated <i>", dilated, (jax.ShapeDtypeStruct((1, 40, 32, 1), jnp.float32),), picture)
    found = explain(target, draws=2, tile=32)
    return found, page(found)


def test_the_page_is_whole_and_needs_nothing_else(explained):
    found, text = explained
    reader = Reader(text)
    assert found.failed == {}
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert not re.search(r"(src|href)=\"(?!data:|#)|url\(|@import|<link|<iframe", text)
    assert "<i>" not in text  # names are escaped
    assert len(reader.images) >= 5
    for image in reader.images:
        assert len(image["alt"]) > 30 and int(image["width"]) > 100
        kind, data = re.fullmatch(r"data:image/(svg\+xml|png);base64,(.*)", image["src"]).groups()
        raw = base64.b64decode(data, validate=True)
        assert raw.startswith(b"\x89PNG") if kind == "png" else b"<svg" in raw
        assert kind == "png" or not re.search(rb"href=\"(?!#|data:)", raw)
    assert "prefers-color-scheme: dark" in text and 'lang="en"' in text
    assert text.count("<h1>") == 1 and text.count("<h2") == text.count("<section")


def numbers_of(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_of(each)
    elif isinstance(value, int | float):
        yield float(value)


def test_the_json_beside_the_page_has_every_number_of_it(explained, tmp_path):
    found, shown = explained
    path = write_page(found, tmp_path / "a.html")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    made = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert path.read_text(encoding="utf-8") == shown and made == record(found)
    assert made["receptive_field"]["size"] == [15, 15] and made["output"]["used"] == 225
    assert made["layers"][0]["nominal_size"] == [5, 5] and made["layers"][0]["opens"] is True
    assert made["tiling"]["tile"] == 32 and made["checkerboard"]["pattern"] == found.board.pattern
    reader = Reader(shown)
    for finding in made["findings"]:
        assert finding["title"] in reader.texts and finding["text"] in reader.texts
    # Each number of the cards and the table is one of the file's, as the page rounds it.
    known = {f"{scale * n:{style}}" for n in numbers_of(made) for scale in (1, 100) for style in (".3g", ".2f", ".2g")}
    cards = re.search(r'<dl class="cards">.*?</dl>', shown, re.S).group(0)
    cells = " ".join(cell for line in reader.cells[1:] for cell in line[3:])
    words = html.unescape(re.sub("<[^>]*>", " ", cards))
    for number in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", words + cells):
        assert {number, f"{float(number):.3g}"} & known or number in ("95", "1"), number


def test_what_is_not_finite_is_null_in_the_json(explained):
    found, _ = explained
    board = dataclasses.replace(found.board, pattern=float("nan"), spread=float("inf"))
    made = record(dataclasses.replace(found, board=board))
    assert made["checkerboard"]["pattern"] is made["checkerboard"]["spread"] is None
    json.dumps(made, allow_nan=False)


def test_one_gradient_serves_both_that_measure_it(monkeypatch):
    from jaxconv.explain import collect

    made = []

    class Counted(collect.Pullback):
        def __init__(self, *args):
            made.append(self)
            super().__init__(*args)

    monkeypatch.setattr(collect, "Pullback", Counted)
    image = jax.ShapeDtypeStruct((1, 24, 16, 1), jnp.float32)
    found = explain(Target("dilated", dilated, (image,)), draws=2, tile=32)
    assert len(made) == 1 and found.failed == {}
    alone = jc.analysis.effective_receptive_field(dilated, image, draws=2)
    np.testing.assert_array_equal(found.effective.energy, alone.energy)
    assert (found.effective.box, found.effective.index) == (alone.box, alone.index)
    board = jc.analysis.checkerboard(dilated, image, draws=collect.FLAT_IMAGES)
    assert (found.board.score, found.board.gradient_score) == (board.score, board.gradient_score)
    assert found.board.counts == board.counts


@pytest.mark.slow
def test_integers_have_no_gradient_and_the_rest_is_explained():
    def labels(x):
        return jnp.argmax(dilated(x.astype(jnp.float32)), axis=-1)

    image = jax.ShapeDtypeStruct((1, 24, 16, 1), jnp.uint8)
    found = explain(Target("labels", labels, (image,)), draws=1, tile=32)
    assert "no gradient of an output of int32 to an image of uint8" in found.failed["effective receptive field"]
    assert found.field.size == (15, 15) and len(rows(found)) == 5
    Reader(page(found))


def test_the_table_holds_the_numbers_of_the_analysis(explained):
    found, text = explained
    gridding = jc.analysis.gridding(dilated, found.target.args[0])
    head, *lines = Reader(text).cells
    assert tuple(head) == HEADS
    assert len(lines) == len(gridding.layers) + 1
    made = rows(found)
    for row, layer in zip(made, (*gridding.layers, gridding.output), strict=True):
        shown = dict(zip(HEADS, row.texts, strict=True))
        assert shown["seen"] == "×".join(map(str, layer.size))
        assert shown["field"] == "×".join(map(str, layer.nominal_size))
        assert float(shown["evenness"]) == pytest.approx(layer.evenness, abs=0.006)
        assert float(shown["used"].split()[0]) == pytest.approx(100 * layer.coverage, abs=0.06)
        assert shown["holes"].startswith("opens" if layer.opens else "closes" if layer.closes else "")
        assert [c for c in row.texts if c] == lines[made.index(row)]
    assert [r.texts[5] for r in made] == ["5×5", "9×9", "13×13", "15×15", "15×15"]
    assert "opens (2×2)" in text and "closes" in text


def test_findings_name_the_layers_and_verify_their_fixes(nets):
    found = explain(resolve("nets_to_explain:stack", shape=(1, 32, 32, 1)), draws=1, tile=32)
    holes = findings(found)[0]
    assert holes.kind == "problem" and "29 %" in holes.title and "49 of 169" in holes.text
    assert "nets_to_explain.py:6" in holes.text and "period 2×2" in holes.text
    rates = [int(r) for r in re.search(r"rates ([\d, ]+) in place of 2, 2, 2", holes.fixes[0]).group(1).split(",")]
    check = jc.analysis.check_rates(rates)
    spaces = {"jax": jax, "jc": jc, "x": jnp.ones((1, 9, 9, 2)), "kernels": [jnp.ones((3, 3, 2, 2))] * 3}
    exec(holes.code[0], spaces)
    assert spaces["x"].shape == (1, 9, 9, 2) and f"({', '.join(map(str, rates))},)" in holes.code[0]
    assert check.ok and check.receptive_field == 13 and "100 % are used instead of 29 %" in holes.fixes[0]

    found = explain(resolve("nets_to_explain:generator"), draws=1, tile=32)
    board = findings(found)[0]
    assert board.kind == "problem" and "layer 1" in board.title and "layer 2" in board.title
    place = board.title.partition("of layer 1 ")[2].split(")")[0] + ")"
    assert any(fix.startswith(f"kernel size 4: paths per phase of layer 1 {place} 0.67 → 0") for fix in board.fixes)
    table = {f"layer {row.texts[0]} ({row.texts[1]})": row.texts[-1] for row in rows(found)}
    own = re.findall(r"own unevenness on flat inputs of (.*) (\S+) → 0$", "\n".join(board.fixes), re.M)
    assert own and all(f"flat {number}" in table[layer] for layer, number in own)  # the table says the same
    assert found.overlaps.keys() == {0, 1}
    from flax import nnx

    given = {"jax": jax, "jc": jc, "rngs": nnx.Rngs(0), "c_in": 4, "c_out": 4, "w": jnp.ones((3, 3, 4, 4))}
    for finding in findings(found):  # the code of each fix runs, and enlarges as the layer did
        for code in finding.code:
            spaces = given | {"x": jnp.ones((1, 6, 6, 4))}
            exec("import jaxconv.nn, jaxconv.initializers\n" + code, spaces)
            assert spaces["x"].shape == (1, 12, 12, 4), code
    assert match(found.gridding.layers, ()) == {}
    text = page(found)
    size = f"{found.board.pattern:.2g}"
    assert f">{size}<small>" in text and f"{size} (the output&#39;s spread: {found.board.spread:.2g})" in text
    assert f"counts {found.board.counts:.2g}" in text and "paths into each output" not in Reader(text).texts[0]
    assert sum("Overlap of a kernel of 3×3 at stride 2×2" in i["alt"] for i in Reader(text).images) == 1


def test_features_in_grids_are_found_though_all_pixels_are_read():
    """As trained networks print them: benchmarks/experiments, schedules."""

    def net(rates):
        def run(x):
            x = jc.conv(x, jnp.ones((5, 5, 1, 1)), stride=2, padding=2)
            for rate in rates:
                x = jc.conv(x, jnp.ones((3, 3, 1, 1)), padding=rate, dilation=rate)
            return jc.resize(x, (64, 64))

        return run

    image = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    told = {}
    for rates in ((2, 2, 2), (2, 4, 2), (1, 2, 3), (2, 2, 1)):
        found = jc.analysis.gridding(net(rates), image)
        assert found.coverage == 1
        (told[rates],) = _holes(SimpleNamespace(gridding=found, place="pixel"))
    assert [f.kind for f in told.values()] == ["problem", "problem", "fine", "fine"]
    assert told[2, 2, 2].title == "Features in grids of period 2×2" and "in place of 2, 2, 2" in told[2, 2, 2].fixes[0]


def test_the_schedule_that_is_advised_is_the_most_even_with_small_rates_first():
    """As trained networks of one field have it: benchmarks/experiments, schedules."""
    for rates, wanted in (((2, 2, 2, 2, 2, 2), "1, 1, 1, 1, 2, 6"), ((2, 4, 8, 2, 4, 8), "1, 1, 1, 2, 6, 17")):
        said, _ = rates_fix([SimpleNamespace(dilation=(r, r), kernel=(3, 3), place="at", name="") for r in rates])
        assert f"dilation rates {wanted} in place of" in said and "small rates first" in said
    said, _ = rates_fix([SimpleNamespace(dilation=(2, 2), kernel=(3, 3), place="at", name="")])
    assert "dilation rates 1 in place of 2" in said and "first" not in said


def test_what_fails_is_said_and_the_rest_goes_on(nets):
    axes = (2, 3)
    found = explain(
        resolve("nets_to_explain:first", shape=(1, 3, 16, 16), spatial_axes=axes), spatial_axes=axes, draws=1
    )
    assert found.tiling is None and "reduce_sum" in found.failed["tiling"]
    said = [f.title for f in findings(found)]
    assert any(title.startswith("Beyond these, one operation") for title in said)
    assert "cannot be cut exactly" in page(found)


def test_networks_over_volumes_and_signals_have_a_page():
    for shape in ((1, 24, 2), (1, 8, 8, 8, 2)):
        rank = len(shape) - 2

        def net(x, rank=rank):
            return jc.conv(x, jnp.ones((3,) * rank + (2, 2)), padding=1)

        found = explain(Target("net", net, (jax.ShapeDtypeStruct(shape, jnp.float32),)), draws=1, tile=8)
        reader = Reader(page(found))
        assert rows(found)[0].texts[5] == "×".join(["3"] * rank)
        said = " ".join(image["alt"] for image in reader.images)
        assert len(reader.images) >= 4, f"rank {rank}"
        text = " ".join([*reader.texts, said])
        place, whole = {1: ("position", "signal"), 3: ("voxel", "volume")}[rank]
        assert "pixel" not in text.replace("pixel shuffle", "") and f" {place}s" in text and f"flat {whole}s" in text
        assert f"reads all {3**rank} {place}s" in said and "Map of how many paths" in said and "gradient energy" in said


def test_a_resize_is_not_said_to_make_the_pattern_that_borders_make():
    def net(x):
        w = jnp.arange(9.0).reshape(3, 3, 1, 1)  # borders to the left and to the right cut other weights
        return jc.resize(jc.conv(x, w, dilation=6, padding=6), (32, 32))

    found = explain(Target("net", net, (jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32),)), draws=1, tile=8)
    assert found.board.pattern > 1e-3
    (said,) = (f for f in findings(found) if f"{found.board.pattern:.2g}" in f.text)
    assert said.kind == "fine" and "borders" in said.text and not said.fixes


def run(*arguments, capsys):
    code = main(["explain", *map(str, arguments)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err


@pytest.mark.slow
def test_uneven_gradients_are_told_kernel_by_kernel():
    """Each kernel with its own number of terms, and one operation is not "1 operations"."""

    def net(x):
        for size in (3, 5, 3):
            x = jc.conv(x, jnp.ones((size, 1, 1)) / size, stride=2, padding=size // 2)
        return x / jnp.sum(x)

    found = explain(Target("net", net, (jax.ShapeDtypeStruct((1, 64, 1), jnp.float32),)))
    told = {f.title: f.text for f in findings(found)}
    assert {layer.name for layer in found.board.layers} == {"convolution"}
    text = told["The gradient at the input is uneven"]
    assert text.count("kernel 3 is not divisible by stride 2") == text.count("kernel 5 is not divisible") == 1
    (one,) = (title for title in told if title.startswith("Beyond these"))
    assert one == "Beyond these, one operation reads the whole signal"


@pytest.mark.slow
def test_a_classifier_that_reads_the_whole_image_has_a_page(tmp_path):
    """Nothing but a mean over the image leads to its output: no box, no share of one, and no division by it."""
    w = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))

    def net(x):
        return jnp.mean(jax.nn.relu(jc.conv(x, w, stride=2, padding=1)), axis=(1, 2)) @ jnp.ones((4, 5))

    found = explain(Target("classifier", net, (jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),)))
    assert found.effective.box is None and found.effective.ratio is None and found.effective.area() > 100
    path = tmp_path / "page.html"
    write_page(found, path)
    assert "whole image" in path.read_text("utf-8")


def test_command_prints_the_table_and_writes_the_page(nets, capsys):
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(nets / "photo.png")
    code, out, _ = run("nets_to_explain.py:stack", "--image", "photo.png", "--input", "1,24,32,3", capsys=capsys)
    assert code == 0
    assert "13×13" in out and "29 %" in out and "stack-explain.html" in out and "rates" in out
    assert "resized from 50×70 to 24×32" in " ".join(out.split())
    Reader((nets / "stack-explain.html").read_text())
    assert not list(nets.glob(".tmp.*"))
    code, out, _ = run("nets_to_explain:generator", "--out", "deep/a.html", "--tile", "16", capsys=capsys)
    assert code == 0 and (nets / "deep" / "a.html").is_file()


@pytest.mark.slow
def test_run_folders_are_explained(tmp_path, capsys):
    pytest.importorskip("safetensors")
    from flax import nnx

    from jaxconv.models import UNet
    from jaxconv.train.record import Preprocessing
    from jaxconv.train.runfolder import save_run

    model = UNet(3, 2, widths=(2, 4), batch_norm=False, rngs=nnx.Rngs(0))
    record = Preprocessing(class_names=("a", "b"), size=(16, 24))
    save_run(tmp_path / "run", model, model_name="unet", model_kwargs=model.config, preprocessing=record)
    code, out, _ = run(tmp_path / "run", "--tile", "32", capsys=capsys)
    assert code == 0
    assert "16×24 → 16×24" in out and "ups/0" in out
    assert "unet, run run" in Reader((tmp_path / "run" / "explain.html").read_text()).texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], f"nothing is neither a run folder nor a model ({', '.join(sorted(REGISTRY))})"),
        (["no_such_module:f"], "no module is called 'no_such_module'"),
        (["absent.py:f"], "absent.py does not exist"),
        (["nets_to_explain:nope"], "nets_to_explain has no 'nope'; it has: Net, first, generator, stack, wrong"),
        (["nets_to_explain:Net"], "is a class"),
        (["nets_to_explain:stack"], "takes arguments: give the shape of its image, as --input 1,256,256,3"),
        (["nets_to_explain:wrong"], "gives a int, not a tuple (fn, image, ...)"),
        (["nets_to_explain:number", "--input", "1,8,8,1"], "is a int, which cannot be called"),
        (["nets_to_explain:stack", "--input", "1,a"], "--input 1,a: needed are whole numbers"),
        (["nets_to_explain:stack", "--input", "1,0,8,3"], "--input 1,0,8,3: all sizes must be at least 1"),
        (["nets_to_explain:stack", "--input", "8,3"], "--input 8,3: an image has a batch axis"),
        (["nets_to_explain:first", "--input", "1,8,8"], "does not take an input of shape (1, 8, 8)"),
        (["unet", "--input", "1,4,4,3"], "unet does not take an input of shape (1, 4, 4, 3): x has shape"),
        (["unet", "--image", "absent.png"], "image absent.png does not exist"),
        (["unet", "--image", "nets_to_explain.py"], "image nets_to_explain.py cannot be read"),
        (["nets_to_explain:generator", "--tile", "0"], "--tile 0 must be at least 1"),
        (["nets_to_explain:generator", "--input-range", "1"], "--input-range 1: needed are two numbers"),
        (["nets_to_explain:generator", "--input-range", "1,0"], "--input-range 1,0: the lowest value must be below"),
        (["nets_to_explain:generator", "--out", "."], "--out . is a folder"),
        (["nets_to_explain:generator", "--out", "a.json"], "--out a.json is where the numbers go; give"),
        ([".", "--input", "1,8,8,3"], "is not a run folder"),
    ],
)
def test_errors_say_what_was_wrong(nets, capsys, arguments, message):
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 1 and err.startswith("jaxconv: ")
    assert message in " ".join(err.split())
    assert not list(nets.glob("**/*.html"))


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", "import jaxconv.cli, sys; print('matplotlib' in sys.modules, 'flax' in sys.modules)"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_a_tall_signal_is_drawn_small_and_its_axis_of_one_is_left_alone():
    def net(x):
        for rate in (1, 8):
            x = jc.conv(x, jnp.ones((7, 1, 1, 1)) / 7, padding=(3 * rate, 0), dilation=(rate, 1))
        return jnp.reshape(x, (1, -1, 1, 1))

    found = explain(Target("tall", net, (jax.ShapeDtypeStruct((1, 3000, 1, 1), jnp.float32),)), draws=1, tile=64)
    assert found.failed == {} and found.tiling.crop[1] == 1
    assert all(float(image["height"]) < 1200 for image in Reader(page(found)).images)


@pytest.mark.parametrize("width", [60, 80, 132])
def test_names_and_numbers_are_not_broken_inside_words(width):
    import io

    from rich.console import Console

    from jaxconv.explain.terminal import show

    w = jnp.ones((3, 3, 1, 1))

    def net(x):
        for number in range(12):
            with jax.named_scope(f"encoder/layers/{number}/convolution"):
                x = jc.conv(x, w, padding="SAME", dilation=1 + number % 3)
        return x

    found = explain(Target("net", net, (jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32),)), draws=1, tile=32)
    out = io.StringIO()
    show(found, Console(file=out, width=width))
    said = out.getvalue()
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    assert said.count("encoder/") >= 12 and said.count("layers/") >= 12 and said.count("convolution") >= 12
    for row in rows(found):
        assert row.texts[HEADS.index("field")] in said.split()


def test_random_weights_are_those_of_the_initialisers():
    from flax import nnx

    from jaxconv.explain.weights import planned

    for build in (
        lambda rngs: nnx.BatchNorm(3, rngs=rngs),
        lambda rngs: nnx.Conv(8, 16, (3, 3), rngs=rngs),
        lambda rngs: nnx.Conv(8, 16, (3, 3), kernel_init=nnx.initializers.uniform(2.0), rngs=rngs.fork()),
    ):
        shapes, draw = planned(build)
        drawn, own = (jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (draw(), build(nnx.Rngs(0))))
        assert [x.shape for x in jax.tree.leaves(nnx.state(shapes, nnx.Param))] == [x.shape for x in own]
        for a, b in zip(drawn, own, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            few = 5 / np.sqrt(a.size)
            assert abs(a.std() - b.std()) <= few * max(b.std(), 1e-9) and abs(a.mean() - b.mean()) <= few * b.std()
            assert abs(a).max() <= 1.5 * abs(b).max()  # truncated and uniform ones keep their bounds


def test_crops_add_up_and_a_latent_is_not_cut():
    from jaxconv.explain import collect
    from jaxconv.explain.terminal import tiling_sentence

    def up(x):
        return jc.conv_transpose(x, jnp.ones((5, 5, 1, 1)), stride=2, padding=1)

    image = jax.ShapeDtypeStruct((1, 24, 24, 1), jnp.float32)
    target = Target("up", up, (image,))
    field = jc.analysis.receptive_field(up, image)
    advice = collect.advise(target, field, 32, None)
    ((before, keep, after, crop),) = set(zip(advice.before, advice.keep, advice.after, advice.crop, strict=True))
    assert before + keep + after == crop and keep >= 32 and advice.work == (crop / keep) ** 2
    whole = collect.Explanation(target, field, tiling=advice)
    assert f"({before} + {keep} + {after} = {crop})" in tiling_sentence(whole)

    def fixed(x):
        return jc.conv(x.reshape(1, 24, 24, 1), jnp.ones((3, 3, 1, 1)), padding=1)

    with pytest.raises(jc.analysis.TilingRefused, match="takes no larger input"):
        collect.advise(Target("fixed", fixed, (image,)), field, 32, None)

    def latent(x):
        return jc.conv_transpose(x, jnp.ones((4, 4, 1, 1)), stride=2)

    found = explain(Target("latent", latent, (jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32),)), draws=1)
    assert found.tiling is None and "tiling" not in found.failed and 'id="tiles"' not in page(found)


def test_costly_networks_are_measured_on_fewer_images(monkeypatch):
    from jaxconv.analysis.field import cost
    from jaxconv.explain import collect

    image = jax.ShapeDtypeStruct((1, 24, 16, 1), jnp.float32)
    made = []
    monkeypatch.setattr(collect, "measured", lambda *args, draws, **_: made.append(draws))
    for budget in (1e11, 10 * 24 * 16 * 9 * (2 + 4 + 4 + 4) // 2):
        monkeypatch.setattr(cost, "BUDGET", budget)
        explain(Target("dilated", dilated, (image,)), tile=32)
    assert made == [8, 5]


def test_a_costly_model_is_looked_at_on_a_smaller_image(monkeypatch):
    from jaxconv.explain import target

    monkeypatch.setattr(target, "LARGE", 1e6)
    small = resolve("fsrcnn")
    assert small.args[0].shape == (1, 128, 128, 3) and any("256×256 takes 2 billion" in r for r in small.remarks)
    assert resolve("fsrcnn", shape=(1, 256, 256, 3)).args[0].shape == (1, 256, 256, 3)
