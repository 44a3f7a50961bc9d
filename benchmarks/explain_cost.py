"""What `jaxconv explain` costs for every model of the registry: time and memory beyond the parameters and the imports.

Run from the top of the checkout: ``JAX_PLATFORMS=cpu python benchmarks/explain_cost.py [MODEL ...]``. Each model is
explained in a process of its own, whose imports count in the time; the page is written and thrown away. Prints the
table of docs/explain.md. With ``--steps`` the seconds of each step follow.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 2**20


def measure(name: str, begin: float, steps: bool) -> None:
    """Explain one model and print its row; `begin` is when the process was started."""
    import jax
    import matplotlib.pyplot  # noqa: F401
    from flax import nnx

    from jaxconv.explain.collect import explain
    from jaxconv.explain.page import write_page
    from jaxconv.explain.target import resolve

    jax.devices()
    base = _peak()
    target = resolve(name)
    found = explain(target)
    with tempfile.TemporaryDirectory() as folder:
        drawing = time.perf_counter()
        write_page(found, Path(folder) / "page.html")
        drawing = time.perf_counter() - drawing
    wall, cpu = time.time() - begin, time.process_time()
    owner = getattr(target.fn, "__self__", target.fn)
    weights = sum(x.nbytes for x in jax.tree.leaves(nnx.state(owner)) if hasattr(x, "nbytes"))
    more = (_peak() - base - weights) / MIB
    print(f"| {name} | {weights / MIB:.0f} | {wall:.1f} | {cpu:.1f} | {more:.0f} |", flush=True)
    if steps:
        listed = {**found.seconds, "drawing": drawing}
        print("  " + ", ".join(f"{step} {seconds:.1f}" for step, seconds in listed.items()), flush=True)
    for step, why in found.failed.items():
        print(f"{name}: {step} failed: {why}", file=sys.stderr)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: list[str]) -> None:
    """Measure the models one by one."""
    steps = "--steps" in arguments
    names = [a for a in arguments if not a.startswith("--")]
    if "--one" in arguments:
        measure(names[0], float(names[1]), steps)
        return
    from jaxconv.models import REGISTRY

    print("| model | parameters, MiB | seconds | CPU seconds | memory beyond the parameters, MiB |")
    print("|---|---|---|---|---|", flush=True)
    for name in names or sorted(set(REGISTRY) - {"segmentation"}):  # which is made of one of the others
        subprocess.run([sys.executable, __file__, "--one", *["--steps"] * steps, name, str(time.time())], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
