"""Time a training step of a U-Net built in several libraries, as it is and through jaxconv.accelerate.

    python benchmarks/accelerate_libraries.py [--widths 16 32 64 128] [--batch 2] [--size 96] [--repeats 9]
        [--out FILE.json]

For each library that is installed: the largest difference of loss, parameters and statistics after the step, what
became of the convolutions, and the best times of both in turn. The networks are those of tests/unets.py.
"""

import argparse
import collections
import sys
import time
from pathlib import Path

import jax

from jaxconv import accelerate
from jaxconv.benchmark import report, runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import unets  # noqa: E402 - the networks live beside the tests that use them


def measured(name, options):
    """One library's row."""
    step, arguments = unets.LIBRARIES[name](tuple(options.widths), options.batch, options.size)
    found = accelerate.report(step, *arguments)
    programs, compiling = {}, {}
    for kind, function in (("plain", step), ("accelerated", accelerate(step))):
        start = time.perf_counter()
        programs[kind] = jax.jit(function).lower(*arguments).compile()
        compiling[kind] = time.perf_counter() - start
    outs = {kind: program(*arguments) for kind, program in programs.items()}
    calls = {k: lambda program=program: jax.block_until_ready(program(*arguments)) for k, program in programs.items()}
    return {
        "difference": unets.difference(outs["accelerated"], outs["plain"]),
        "faces": dict(collections.Counter(row.face for row in found)),
        "left_alone": len(found.left_alone),
        "seconds": runner.time_in_turn(calls, options.repeats, budget=20),
        "compile": compiling,
    }


def main():
    """Measure and print; write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record = {**runner.machine(), "dtype": "float32", "libraries": {}}
    record |= {"widths": options.widths, "batch": options.batch, "size": options.size, "repeats": options.repeats}
    for name in unets.LIBRARIES:
        try:
            row = measured(name, options)
        except ModuleNotFoundError as absent:
            print(f"{name}: absent ({absent})")
            continue
        record["libraries"][name] = row
        plain, fast = (1e3 * row["seconds"][kind] for kind in ("plain", "accelerated"))
        faces = ", ".join(f"{count} {face}" for face, count in row["faces"].items())
        print(
            f"{name:13} plain {plain:7.1f} ms  accelerated {fast:7.1f} ms  speed-up {plain / fast:.2f}  "
            f"difference {row['difference']:.1e}  {faces}; {row['left_alone']} left alone",
            flush=True,
        )
    if options.out:
        report.write_json(options.out, record)


if __name__ == "__main__":
    main()
