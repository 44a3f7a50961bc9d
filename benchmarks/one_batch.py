"""After how many steps of Adam the loss on one batch is below a tenth of its start, for every model of the registry.

Run from the top of the checkout: ``python benchmarks/one_batch.py [MODEL ...] [--rates 0.01 0.003]``. The models are
the small ones of tests/test_models_zoo.py, which has the batches, too; of several rates the quickest counts.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))


def main():
    from test_models_zoo import REGISTRY, losses, one_batch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[*sorted(REGISTRY), []])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-2])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    print("| model | rate | steps to a tenth | left after all, % |\n|---|---|---|---|", flush=True)
    for name in options.models or sorted(REGISTRY):
        rows = []
        for rate in options.rates:
            found = losses(*one_batch(name), options.steps, rate)
            below = np.flatnonzero(found < 0.1 * found[0])
            rows.append((int(below[0]) if len(below) else options.steps + 1, rate, 100 * found[-1] / found[0]))
        steps, rate, left = min(rows)
        print(f"| {name} | {rate:g} | {steps if steps <= options.steps else '-'} | {left:.2g} |", flush=True)


if __name__ == "__main__":
    main()
