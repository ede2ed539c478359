"""How long choosing a range takes, per site and method, and how good the "mse" ranges are.

Sites: a million values each of known distributions, then every activation of ResNet-20 (random
weights, 64 images of smoothed noise), as `qdq.calibrate` sees them. Printed: CPU time per site,
median [lower quartile, upper quartile]; for the distributions also by how much the error of the
"mse" range exceeds the least that an exhaustive search finds.

    python scripts/benchmarks/range_search.py --runs 9
"""

import numpy as np
import torch
from measuring import Times, arguments
from torch.nn import functional as F

import qdq
from models.resnet import resnet20
from qdq.numerics.histogram import Histogram, from_values
from qdq.numerics.thresholds import METHODS, grid_error

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
    chosen = grid_error(hist, *np.array(METHODS["mse"](hist))[:, None])
    return float(chosen[0] / errors.min()) - 1


def main() -> None:
    """Measure and print."""
    asked = arguments(__doc__, runs=9).parse_args()
    torch.set_num_threads(asked.threads)
    named = distributions()
    groups = {name: [each] for name, each in named.items()} | {"ResNet-20": activations()}
    for title, hists in groups.items():
        print(f"{title}: {len(hists)} site(s), {np.median([len(h.bins) for h in hists]):.0f} bins")
        jobs = {n: (lambda m=m, h=hists: [m(each) for each in h]) for n, m in METHODS.items()}
        times = Times(jobs, asked.runs, per=len(hists))
        print(*(f"  {name:10} {times.spent(name)}" for name in jobs), sep="\n")
        if title in named:
            print(f"  mse range: {excess(named[title]):+.2%} above the least error")


if __name__ == "__main__":
    main()
