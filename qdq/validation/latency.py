"""Latency of several files side by side, in a way that can be believed on a shared machine."""

import os
from collections.abc import Mapping
from functools import partial

from qdq.data import Inputs, tensors_of
from qdq.graph.benching.turns import Clock, Turns, take_turns
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

    One thread by default, and then by CPU time: idle threads of one session spin and slow the
    others.

    Args:
        paths: name -> ONNX file; the first is what the others are divided by.
        inputs: of one batch.
        runs: counted runs of each, after a few to warm up.
        threads: of each session.
        progress: show a bar on a terminal.
    """
    opened = [session(path, threads=threads) for path in paths.values()]
    jobs = [partial(each.run, None, feed(each, inputs)) for each in opened]
    clock: Clock = "cpu" if threads == 1 else "wall"
    turns = take_turns(jobs, runs, clock=clock, turn_ms=0.0, progress=progress)
    rows = tuple(_row(name, turns, index) for index, name in enumerate(paths))
    return LatencyReport(threads, len(tensors_of(inputs)[0]), runs, rows)


def _row(name: str, turns: Turns, index: int) -> LatencyRow:
    low, middle, high = turns.spent(index)
    return LatencyRow(name, middle, low, high, turns.ratio(index)[1])
