"""Run the experiments, or write their tables and figures into the pages.

    python -m benchmarks.experiments [NAME ...] [--reduced] [--seeds 0 1 2] [--only PART]
    python -m benchmarks.experiments --pages [--check]

Every run is one line of benchmarks/results/experiments/NAME.jsonl, and what stands there is not repeated. A reduced
rerun goes to --out, a temporary folder by default.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

import jax

from benchmarks.experiments.common import NAMES, RESULTS, record


def main():
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--reduced", action="store_true", help="one seed, fewer steps, a few variants")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", default="", help="variants whose names have this part")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pages", action="store_true", help="write tables and figures of the records")
    parser.add_argument("--check", action="store_true", help="with --pages: compare, and write nothing")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # what is compared runs on CPUs; the TPU's compiler needs no TPU
    if options.pages:
        from benchmarks.experiments import pages

        pages.write(check=options.check)
        return
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no experiment is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    # One program for all seeds of a variant.
    jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / "jaxconv-experiments"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    folder = options.out or (Path(tempfile.mkdtemp(prefix="experiments-")) if options.reduced else RESULTS)
    for name in options.names or NAMES:
        experiment = importlib.import_module(f"benchmarks.experiments.{name}")
        every = getattr(experiment, "FEW", experiment.VARIANTS) if options.reduced else experiment.VARIANTS
        variants = [variant for variant in every if options.only in variant]
        seeds = options.seeds[:1] if options.reduced else options.seeds
        record(experiment, variants, seeds, "reduced" if options.reduced else "full", folder)
    print(f"records in {folder}")


if __name__ == "__main__":
    main()
