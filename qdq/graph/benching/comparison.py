"""bench: what files take side by side."""

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeAlias

import onnxruntime

from qdq.errors import InputError
from qdq.graph.benching.machines import cpu_name
from qdq.graph.benching.opening import CPU, draw_inputs, open_session, provider_named, refuse_inputs
from qdq.graph.benching.turns import MOST_ROUNDS, Clock, Job, check_count, take_turns
from qdq.records.benching import BenchReport, BenchRow
from qdq.registry import choose_one_of

Paths: TypeAlias = Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]

_MOST_THREADS = 1024  # more take minutes to start, and nobody has the cores


def bench(
    files: Paths,
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (),
    providers: Sequence[str] = ("cpu",),
    rounds: int = 30,
    clock: Clock | None = None,
    sizes: Mapping[str, int] | None = None,
    progress: bool = True,
) -> BenchReport:
    """Time files side by side, in every setting, on random inputs.

    Files take turns of some 5 ms, and each is divided by the first one round by round, so that a
    busy neighbour slows them alike.

    Args:
        files: paths, or names -> paths.
        threads: of one operator: one setting per number.
        batches: lengths of the first axis, where files leave it open; empty: 1, or the file's own.
        providers: onnxruntime's execution providers: "cpu", "cuda".
        rounds: turns of each file that are counted.
        clock: "cpu", which a busy neighbour hardly changes, or "wall"; None: "cpu" for one thread
            of the CPU, "wall" for anything else.
        sizes: of dimensions with names, {"height": 224}; others that vary are 1.
        progress: show a bar on a terminal.

    Raises:
        GraphError: no such file, or onnxruntime refuses it.
        InputError: no files, a setting that cannot be, a size that no file has, or inputs that
            onnxruntime does not take.
    """
    named = _named(files)
    check_count("rounds", rounds, MOST_ROUNDS)
    for each in threads:
        check_count("threads", each, _MOST_THREADS)
    for each in batches:
        check_count("batch", each)
    rows: list[BenchRow] = []
    asked: Sequence[int | None] = batches or (None,)
    for provider, count, batch in product(map(provider_named, providers), threads, asked):
        own: Clock = clock or ("cpu" if count == 1 and provider == CPU else "wall")
        jobs, lengths = _jobs(named, provider, count, batch, sizes or {})
        turns = take_turns(jobs, rounds, clock=own, progress=progress)
        for index, name in enumerate(named):
            low, middle, high = turns.spent(index)
            less, ratio, more = turns.ratio(index)
            setting = (name, provider, count, lengths[index], own, turns.calls[index])
            rows.append(BenchRow(*setting, middle, low, high, ratio, less, more))
    return BenchReport(cpu_name(), f"onnxruntime {onnxruntime.__version__}", rounds, tuple(rows))


def _named(files: Paths) -> dict[str, str]:
    """Names that tell the files apart: their own, or paths; of one given twice, with a number."""
    if isinstance(files, Mapping):
        named = {name: str(path) for name, path in files.items()}
    else:
        paths = [str(each) for each in files]
        short = [Path(each).name for each in paths]
        names = short if len(set(short)) == len(set(paths)) else paths
        turns = [names[:index].count(name) + 1 for index, name in enumerate(names)]
        names = [f"{n} #{turn}" if turn > 1 else n for n, turn in zip(names, turns, strict=True)]
        named = dict(zip(names, paths, strict=True))
    if not named:
        raise InputError("there are no files to time", fix="name one or more ONNX files")
    return named


def _jobs(
    named: Mapping[str, str],
    provider: str,
    threads: int,
    batch: int | None,
    sizes: Mapping[str, int],
) -> tuple[list[Job], list[int]]:
    """One run of each file, and how many rows it takes; each was run once."""
    jobs: list[Job] = []
    lengths = []
    varying: set[str] = set()
    for path in named.values():
        session = open_session(path, threads=threads, provider=provider)
        feeds = draw_inputs(session, batch=batch, sizes=sizes, at=path)
        varying |= {size for x in session.get_inputs() for size in x.shape if isinstance(size, str)}
        job = partial(session.run, None, feeds)
        try:
            job()
        except Exception as error:
            raise refuse_inputs(error, path) from error
        jobs.append(job)
        shape = next(iter(feeds.values())).shape if feeds else ()
        lengths.append(shape[0] if shape else 1)
    _require_known(sizes, varying)
    return jobs, lengths


def _require_known(sizes: Mapping[str, int], varying: Collection[str]) -> None:
    """InputError where a size would be ignored: nothing varies by that name."""
    for name in sizes.keys() - varying:
        known = choose_one_of(name, sorted(varying)) if varying else "leave it out: all are fixed"
        raise InputError(f"no input has a dimension {name!r} that varies", fix=known)
