"""Times that can be believed on a shared machine: CPU time, in turn, medians and quartiles."""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for models/, which nobody installs


class Times:
    """CPU time of each of several jobs, in milliseconds.

    Attributes:
        ms: name -> (runs,), the runs of all jobs taken in turn.
    """

    def __init__(
        self, jobs: Mapping[str, Callable[[], object]], runs: int, *, per: int = 1
    ) -> None:
        """Run each job once, in turn, `runs` times over, after two rounds to warm up.

        Args:
            jobs: name -> what to call.
            runs: counted runs.
            per: things that one call works on; the times are of one.
        """
        self.ms = {name: np.empty(runs) for name in jobs}
        for run in range(-2, runs):
            for name, job in jobs.items():
                gc.collect()  # not in the middle of somebody's turn
                start = time.process_time()
                job()
                self.ms[name][max(run, 0)] = (time.process_time() - start) * 1e3 / per

    def spent(self, name: str) -> str:
        """Median of a job's times and their quartiles."""
        return quartiles(self.ms[name], ".2f", " ms")

    def ratio(self, name: str, base: str) -> str:
        """Median and quartiles of one job's time over another's, run by run."""
        return quartiles(self.ms[name] / self.ms[base], ".3f", "x")


def quartiles(values: np.ndarray, form: str, unit: str) -> str:
    """`1.234x [1.200, 1.300]`: the median and the middle half."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:{form}}{unit} [{low:{form}}, {high:{form}}]"


def arguments(description: str | None, *, runs: int) -> argparse.ArgumentParser:
    """A parser that knows --threads and --runs, and shows the script's docstring as its help."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch and onnxruntime (%(default)s)"
    )
    parser.add_argument(
        "--runs", type=int, default=runs, help="counted runs of each side (%(default)s)"
    )
    return parser
