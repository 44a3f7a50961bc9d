"""`jaxconv bench`: its sub-commands, each one function of `jaxconv.benchmark` or one here that takes its words as the
command line has them, and the flags that stood for them before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxconv import benchmark

Text = Annotated[str, tyro.conf.Positional]


def explain(case: Text, dtype: str = "float32") -> None:
    """Say which lowering each face of the layers takes, and why. Measures nothing.

    Args:
        case: part of layer names.
        dtype: of the operands.
    """
    print(benchmark.explain(case, dtype))


def targets(records: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Fill in the table of targets from records of `bench layers --out`. Measures nothing.

    Args:
        records: JSON files.
    """
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
        what: from layers, inner (the same between elementwise products, as in a network), random, networks, models
            (training steps of the registered ones), neighbours.
        cases: parts of names; none means all.
        contenders: who is compiled.
        dtype: of all operands.
        random: how many random layers.
        seed: of the random layers.
        batch_factor: multiplies the batch of every layer and model.
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


COMMANDS: dict[str, Callable[..., Any]] = {
    "layers": benchmark.bench,
    "networks": benchmark.bench_networks,
    "scaling": benchmark.bench_scaling,
    "resize": benchmark.bench_resize,
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
