"""Latency of several files side by side, in a way that can be believed on a shared machine."""

import os
import time
from collections.abc import Mapping

import numpy as np

from qdq.data import Inputs, tensors_of
from qdq.progress import track
from qdq.records.validation import LatencyReport, LatencyRow
from qdq.validation.running import feed, session


def compare_latency(
    paths: Mapping[str, str | os.PathLike[str]],
    inputs: Inputs,
    *,
    runs: int = 200,
    threads: int = 1,
    progress: bool = True,
) -> LatencyReport:
    """Run each file once, in turn, `runs` times over.

    One thread by default: onnxruntime's idle threads of one session spin and slow the others.

    Args:
        paths: name -> ONNX file; the first is what the others are divided by.
        inputs: of one batch.
        runs: counted runs of each, after a tenth as many to warm up.
        threads: of each session.
        progress: show a bar on a terminal.
    """
    opened = [(session(path, threads=threads)) for path in paths.values()]
    feeds = [feed(each, inputs) for each in opened]
    times = np.empty((runs, len(opened)))
    rounds = range(-max(1, runs // 10), runs)
    for run in track(rounds, "timing", total=len(rounds), shown=progress):
        for column, (each, arrays) in enumerate(zip(opened, feeds, strict=True)):
            start = time.perf_counter()
            each.run(None, arrays)
            times[max(run, 0), column] = time.perf_counter() - start
    low, middle, high = np.percentile(times * 1e3, (25, 50, 75), axis=0)
    ratios = np.median(times / times[:, :1], axis=0)
    rows = tuple(
        LatencyRow(name, float(middle[i]), float(low[i]), float(high[i]), float(ratios[i]))
        for i, name in enumerate(paths)
    )
    return LatencyReport(threads, len(tensors_of(inputs)[0]), runs, rows)
