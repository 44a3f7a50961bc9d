"""Fit the rates of ``jaxconv/lowering/costs.py`` on recorded measurements, and say how good the choice is.

``python benchmarks/fit_costs.py benchmarks/results/lowerings-cpu.json`` prints the rates to put into the file, how often the choice is the fastest
lowering, and the ratio of the chosen one's time to the fastest one's.
"""

import argparse
import json

import numpy as np
from scipy.optimize import nnls

from jaxconv.benchmark.cases import REAL, random_layers
from jaxconv.lowering import Call, choice, costs


def calls(record):
    """(call, measured seconds by method) of every row."""
    layers = {layer.name: layer for layer in (*REAL, *random_layers(record["random"], record["seed"]))}
    for row in record["rows"]:
        layer = layers[row["layer"]]
        i, o = layer.conv_channels
        dtype = np.dtype("float32")
        yield row, Call(row["face"], layer.geometry, layer.batch, i, o, dtype, dtype, None, "cpu"), row["seconds"]


def fit(record, rounds: int = 4):
    """Rates by non-negative least squares; the choice inside composite lowerings depends on the rates, hence the rounds."""
    for _ in range(rounds):
        rows, times = [], []
        for _, call, found in calls(record):
            for method, seconds in found.items():
                rows.append(costs.amounts(method, call, choice.choose))
                times.append(seconds)
        kinds = sorted({kind for row in rows for kind in row})
        a = np.array([[row.get(kind, 0.0) for kind in kinds] for row in rows])
        times = np.array(times)
        # Close calls matter, hopeless ones do not: weigh by 1/time, and by how near a method is to its call's best.
        scale = np.abs(a).max(axis=0)
        solution, _ = nnls(a / scale / times[:, None], np.ones(len(times)))
        costs.RATES.clear()
        costs.RATES.update({kind: float(v / s) for kind, v, s in zip(kinds, solution, scale, strict=True)})
        choice.choose.cache_clear()
    return costs.RATES


def regret(record):
    """Time of the chosen lowering over the fastest one's, for every row."""
    out = []
    for row, call, found in calls(record):
        name = choice.choose(call)
        best = min(found, key=found.get)
        out.append((found[name] / found[best], row["layer"], row["face"], name, best))
    return sorted(out, reverse=True)


def main() -> None:
    """Parse, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record")
    parser.add_argument("--keep", action="store_true", help="report the rates in use instead of fitting new ones")
    args = parser.parse_args()
    with open(args.record) as file:
        record = json.load(file)
    if not args.keep:
        for kind, rate in sorted(fit(record).items()):
            print(f'    "{kind}": {rate:.3g},')
    found = regret(record)
    ratios = np.array([r[0] for r in found])
    print(f"{len(ratios)} calls: fastest chosen in {np.mean(ratios == 1):.0%}, geometric mean of chosen/fastest {np.exp(np.log(ratios).mean()):.3f}")
    for ratio, layer, face, name, best in found[:25]:
        print(f"  {ratio:6.2f}  {layer}, {face}: chose {name}, fastest {best}")


if __name__ == "__main__":
    main()
