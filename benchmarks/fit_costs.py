"""Fit the rates of ``jaxconv/lowering/costs.py`` on recorded measurements, and say how good the choice is.

``python benchmarks/fit_costs.py benchmarks/results/lowerings-cpu.json`` prints the rates to put into the file, how
often the choice is the fastest of XLA's operations, and the ratio of the chosen one's time to the fastest one's. With
``--keep`` it does so for the rates in use.
"""

import argparse
import json

import numpy as np
from scipy.optimize import least_squares

from jaxconv import lowering
from jaxconv.benchmark.cases import REAL, random_layers
from jaxconv.lowering import Call, costs


def calls(record):
    """(row, call, measured seconds by method) of every row, where no compiled kernel serves."""
    layers = {layer.name: layer for layer in (*REAL, *random_layers(record["random"], record["seed"]))}
    for row in record["rows"]:
        layer = layers[row["layer"]]
        i, o = layer.conv_channels
        dtype = np.dtype("float32")
        call = Call(row["face"], layer.geometry, layer.batch, i, o, dtype, dtype, None, "cpu")
        seconds = {lowering.named(method): t for method, t in row["seconds"].items()}
        yield row, call, {method: t for method, t in seconds.items() if comparable(record, method, call)}


def comparable(record, method, call):
    """Whether the time is of XLA's operations alone: early records had compiled kernels inside composite lowerings."""
    lowered = lowering.METHODS[method]
    return lowered.serves(call) and (record.get("kernels") == "off" or not lowered.leaves_a_call)


class Guesses(dict):
    """Rates to start from; a kind of work that is new to the model starts at a tenth of a nanosecond."""

    def __missing__(self, kind):
        return 1e-10


def fit(record, rounds: int = 4):
    """Rates by least squares on the logarithm of the times, so that a factor counts alike either way.

    The choice inside composite lowerings depends on the rates, hence the rounds. Methods far from their call's best
    weigh less: the model only has to rank.
    """
    costs.RATES = Guesses(costs.RATES)
    for _ in range(rounds):
        rows, times, weights = [], [], []
        for _, call, found in calls(record):
            best = min(found.values())
            for method, seconds in found.items():
                rows.append(costs.amounts(method, call, lowering.choose))
                times.append(seconds)
                weights.append((best / seconds) ** 0.25)
        kinds = sorted({kind for row in rows for kind in row})
        a = np.array([[row.get(kind, 0.0) for kind in kinds] for row in rows])
        log_times, weights = np.log(times), np.array(weights)
        start = np.log([max(costs.RATES.get(kind, 1e-11), 1e-14) for kind in kinds])

        def residuals(theta, a=a, log_times=log_times, weights=weights):
            return weights * (np.log(a @ np.exp(theta)) - log_times)

        def slopes(theta, a=a, weights=weights):
            parts = a * np.exp(theta)
            return weights[:, None] * parts / parts.sum(axis=1, keepdims=True)

        solution = least_squares(residuals, start, jac=slopes, loss="soft_l1", bounds=(-36, 0)).x
        costs.RATES.clear()
        costs.RATES.update(zip(kinds, (float(f"{np.exp(v):.3g}") for v in solution), strict=True))
        lowering.choose.cache_clear()
    return costs.RATES


def regret(record):
    """Time of the chosen lowering over the fastest one's, for every row."""
    out = []
    for row, call, found in calls(record):
        name = costs.cheapest(call, found, lowering.choose)
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
    print(
        f"{len(ratios)} calls: fastest chosen in {np.mean(ratios == 1):.0%}, geometric mean of chosen/fastest "
        f"{np.exp(np.log(ratios).mean()):.3f}"
    )
    for ratio, layer, face, name, best in found[:25]:
        print(f"  {ratio:6.2f}  {layer}, {face}: chose {name}, fastest {best}")


if __name__ == "__main__":
    main()
