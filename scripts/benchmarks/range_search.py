"""How long choosing a range takes, per site and method, and how good the "mse" ranges are.

Sites: a million values each of known distributions, then every activation of ResNet-20 (random
weights, 64 images of smoothed noise), as `qdq.calibrate` sees them. Printed: CPU time per site,
median [lower quartile, upper quartile], and by how much the error of the "mse" ranges exceeds the
least that an exhaustive search finds, on average over the sites and at worst; then what "auto"
takes.

    python scripts/benchmarks/range_search.py --runs 9
"""

from collections import Counter

import numpy as np
import torch
from measuring import Times, arguments
from torch.nn import functional as F

import qdq
from models.resnet import resnet20
from qdq.numerics.histogram import Histogram, from_values
from qdq.numerics.squared_error import grid_error
from qdq.numerics.thresholds import METHODS, choose

COUNT = 1_000_000


def distributions() -> dict[str, Histogram]:
    """Histograms of values of known shape: one- and two-sided, even and lopsided, long-tailed."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(COUNT)
    values = {
        "normal": normal,
        "laplace": rng.laplace(size=COUNT),
        "relu": np.maximum(normal, 0),
        "uniform": rng.uniform(-1, 1, COUNT),
        "student t3": rng.standard_t(3, COUNT),
        "lopsided": np.where(normal < 0, normal / 20, normal),
    }
    return {name: from_values(each.astype(np.float32)) for name, each in values.items()}


def activations() -> list[Histogram]:
    """Histograms of every site of a network, looked at through the sites' own observers."""
    torch.manual_seed(0)
    model, x = resnet20().eval(), F.avg_pool2d(torch.randn(64, 3, 36, 36), 5, 1) * 5
    qdq.insert(model, x)
    found: dict[str, Histogram] = {}
    for quantizer in qdq.quantizers(model).values():
        if not quantizer.dynamic:
            quantizer.observer = lambda at, seen: found.update({at: from_values(seen.numpy())})
    with torch.no_grad():
        model(x)
    return [*found.values()]


def excess(hist: Histogram) -> float:
    """Error of the "mse" range over the least of a two-stage exhaustive search, less 1."""
    ends = centre = np.array([min(hist.amin, 0.0), max(hist.amax, 0.0)])
    for shares in (2.0 ** -(np.arange(65) / 8), 2.0 ** (np.arange(-12, 13) / 96)):
        low, high = np.meshgrid(*(shares if end else [0.0] for end in ends))
        tried = np.clip(np.stack([low.ravel(), high.ravel()], axis=1) * centre, *ends)
        errors = grid_error(hist, *tried.T)
        centre = tried[errors.argmin()]
    found = choose(hist, "mse")
    chosen = grid_error(hist, np.array([found.amin]), np.array([found.amax]))
    return float(chosen[0] / errors.min()) - 1


def main() -> None:
    """Measure and print."""
    asked = arguments(__doc__, runs=9).parse_args()
    torch.set_num_threads(asked.threads)
    named = distributions()
    groups = {name: [each] for name, each in named.items()} | {"ResNet-20": activations()}
    for title, hists in groups.items():
        print(f"{title}: {len(hists)} site(s), {np.median([len(h.bins) for h in hists]):.0f} bins")
        jobs = {n: (lambda n=n, h=hists: [choose(each, n) for each in h]) for n in METHODS}
        times = Times(jobs, asked.runs, per=len(hists))
        print(*(f"  {name:10} {times.spent(name)}" for name in jobs), sep="\n")
        over = [excess(each) for each in hists]
        print(f"  mse ranges: {np.mean(over):+.2%} above the least, at worst {max(over):+.2%}")
        took = Counter(choose(each, "auto").method for each in hists)
        print("  auto takes:", ", ".join(f"{name} {count}" for name, count in took.most_common()))


if __name__ == "__main__":
    main()
