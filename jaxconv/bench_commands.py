"""`jaxconv bench`: its sub-commands, each one function, and the flags that stood for them before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

Text = Annotated[str, tyro.conf.Positional]


def layers(
    cases: tuple[str, ...] = (),
    random: int = 12,
    seed: int | None = None,
    contenders: tuple[str, ...] = ("jaxconv", "lax", "flax", "equinox", "torch"),
    tasks: tuple[str, ...] = ("forward", "gradients", "data gradient", "kernel gradient"),
    dtype: str = "float32",
    repeats: int = 7,
    batch_factor: int = 1,
    out: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Time real layers and random ones against lax, flax, equinox and PyTorch in turn, as ratios.

    Args:
        cases: parts of layer names; none means all, and random layers beside them.
        random: how many random layers.
        seed: of the random layers; a fresh one by default.
        contenders: who is measured.
        tasks: what is measured; gradients are measured without the forward pass.
        dtype: of all operands.
        repeats: interleaved repeats; the best counts.
        batch_factor: multiplies every batch.
        out: JSON file to write.
        picture: PNG file to draw.
    """
    from jaxconv import benchmark

    options: dict[str, Any] = {"random": random, "seed": seed, "tasks": tasks, "dtype": dtype, "repeats": repeats}
    benchmark.bench(cases, contenders=contenders, batch_factor=batch_factor, out=out, picture=picture, **options)


def networks(
    cases: tuple[str, ...] = (),
    contenders: tuple[str, ...] = ("jaxconv", "accelerate", "lax", "torch"),
    tasks: tuple[str, ...] = ("training step", "inference"),
    dtype: str = "float32",
    repeats: int = 9,
    gpu_sizes: bool = False,
    out: Path | None = None,
) -> None:
    """Time one training step and one inference of the networks of jaxconv.models.

    Args:
        cases: parts of names; none means all networks.
        contenders: who is measured; PyTorch's networks are those of a checkout's tests (PYTHONPATH=tests).
        tasks: what is measured.
        dtype: of parameters and images.
        repeats: interleaved repeats; the best counts.
        gpu_sizes: the sizes meant for a GPU.
        out: JSON file to write.
    """
    from jaxconv import benchmark

    options: dict[str, Any] = {"contenders": contenders, "tasks": tasks, "dtype": dtype, "repeats": repeats}
    benchmark.bench_networks(cases, gpu_sizes=gpu_sizes, out=out, **options)


def scaling(repeats: int = 5, most: int | None = None, out: Path | None = None, picture: Path | None = None) -> None:
    """Time how a layer grows with batch, size, channels, dilation, kernel and stride, and where it jumps.

    Args:
        repeats: interleaved repeats; the best counts.
        most: how many points of a sweep.
        out: JSON file to write.
        picture: PNG file to draw.
    """
    from jaxconv import benchmark

    benchmark.bench_scaling(repeats=repeats, most=most, out=out, picture=picture)


def resize(repeats: int = 7, most: int | None = None, out: Path | None = None) -> None:
    """Time resize beside jax.image.resize and PyTorch's interpolate.

    Args:
        repeats: interleaved repeats; the best counts.
        most: how many cases.
        out: JSON file to write.
    """
    from jaxconv import benchmark

    benchmark.bench_resize(repeats=repeats, most=most, out=out)


def explain(case: Text, dtype: str = "float32") -> None:
    """Say which lowering each face of the layers takes, and why. Measures nothing.

    Args:
        case: part of layer names.
        dtype: of the operands.
    """
    from jaxconv import benchmark

    print(benchmark.explain(case, dtype))


def targets(records: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Fill in the table of targets from records of `bench layers --out`. Measures nothing.

    Args:
        records: JSON files.
    """
    from jaxconv import benchmark

    print(benchmark.targets_table(benchmark.read_records(records)))


def compile_for(
    target: Text,
    function: Annotated[str | None, tyro.conf.Positional] = None,
    input: str | None = None,
    what: tuple[str, ...] = ("layers", "random", "networks"),
    cases: tuple[str, ...] = (),
    contenders: tuple[str, ...] = ("jaxconv", "accelerate", "lax"),
    dtype: str = "bfloat16",
    random: int = 6,
    seed: int = 0,
    batch_factor: int = 1,
    limit: float = 240.0,
    workers: int = 1,
    python: str | None = None,
    out: Path | None = None,
) -> None:
    """Compile for an accelerator that need not be here, and read what its compiler makes of the programs.

    Args:
        target: h100, a100, a TPU slice such as v5e:2x2, v5p:2x2x1 or v6e:2x2, or FILE.txtpb that describes a GPU.
        function: MODULE:NAME or FILE.py:NAME instead of the registry: a function of one image (then give --input), or
            one without arguments that returns (fn, image, ...).
        input: shape of the image, as 1,256,256,3.
        what: from layers, random, networks, neighbours.
        cases: parts of names; none means all.
        contenders: who is compiled.
        dtype: of all operands.
        random: how many random layers.
        seed: of the random layers.
        batch_factor: multiplies the batch of every layer.
        limit: seconds that one program may take.
        workers: processes that compile side by side.
        python: the interpreter of another environment, where the compiler is.
        out: JSON file to write; an earlier record of the same settings is added to.
    """
    from jaxconv import offline
    from jaxconv.explain.command import integers
    from jaxconv.offline import table

    options: dict[str, Any] = {
        "function": function, "shape": integers("--input", input), "named": cases, "contenders": contenders,
        "dtype": dtype, "random": random, "seed": seed, "batch_factor": batch_factor, "limit": limit,
        "workers": workers, "python": python, "out": out,
    }  # fmt: skip
    table.show(offline.compile_for(target, what, **options))


COMMANDS: dict[str, Callable[..., None]] = {
    "layers": layers,
    "networks": networks,
    "scaling": scaling,
    "resize": resize,
    "compile-for": compile_for,
    "explain": explain,
    "targets": targets,
}


def sub_command(arguments: Sequence[str]) -> list[str]:
    """Arguments that begin with a sub-command: as given, or for the flag that stood for it before; else "layers".

    Example:
        >>> sub_command(["--networks", "--dtype", "bfloat16"])
        ['networks', '--dtype', 'bfloat16']
        >>> sub_command(["--compile-for", "v5e:2x2", "--dtype", "bfloat16"])
        ['compile-for', 'v5e:2x2', '--dtype', 'bfloat16']
        >>> sub_command(["--repeats", "3"])
        ['layers', '--repeats', '3']
    """
    given = list(arguments)
    if given and (given[0] in COMMANDS or given in (["--help"], ["-h"])):
        return given
    for name in COMMANDS:
        if (flag := f"--{name}") in given:
            at = given.index(flag)
            values = 1
            while at + values < len(given) and not given[at + values].startswith("-"):
                values += 1
            return [name, *given[at + 1 : at + values], *given[:at], *given[at + values :]]
    return ["layers", *given]
