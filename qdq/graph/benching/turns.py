"""Times that can be believed on a shared machine: jobs in turn, paired ratios, quartiles."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qdq.errors import InputError
from qdq.progress import track

Job: TypeAlias = Callable[[], object]
Clock: TypeAlias = Literal["cpu", "wall"]
Quartiles: TypeAlias = tuple[float, float, float]

# "cpu": of all threads of this process, which a busy neighbour hardly changes; "wall": elapsed.
CLOCKS: dict[Clock, Callable[[], int]] = {
    "cpu": time.process_time_ns,
    "wall": time.perf_counter_ns,
}
TURN_MS = 5.0  # of one turn: long enough for the clocks, short enough for one load of the machine
MOST_ROUNDS = 100_000
_MOST_CALLS = 2000
_WARM_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Turns:
    """What each job took, turn by turn.

    Attributes:
        ms: (rounds, jobs) float64, milliseconds of one call. Jobs of one round met one load of the
            machine, so that their ratios mean more than their times.
        calls: of each job in one turn.
    """

    ms: NDArray[np.float64]
    calls: tuple[int, ...]

    def spent(self, job: int) -> Quartiles:
        """First quartile, median and third quartile of a job's times, milliseconds."""
        return _quartiles(self.ms[:, job])

    def ratio(self, job: int, base: int = 0) -> Quartiles:
        """The same of its times over another job's, round by round."""
        return _quartiles(self.ms[:, job] / self.ms[:, base])


def check_count(what: str, number: int, most: int | None = None) -> None:
    """InputError for a number below 1 or above the most."""
    if number < 1:
        raise InputError(f"{what}={number} is less than one", fix="pass 1 or more")
    if most is not None and number > most:
        raise InputError(f"{what}={number} is more than {most:,}", fix=f"pass {most:,} or less")


def take_turns(
    jobs: Sequence[Job],
    rounds: int,
    *,
    clock: Clock = "cpu",
    turn_ms: float = TURN_MS,
    progress: bool = False,
) -> Turns:
    """Run jobs in turn, one turn of each per round, every other round backwards.

    A turn of several calls begins with one that is not counted: it fetches into the caches what the
    others threw out. Two rounds that are not counted come first. The garbage collector rests.

    Args:
        jobs: what to call.
        rounds: counted ones.
        clock: "cpu" or "wall".
        turn_ms: how long a turn should be, milliseconds: a short job is called several times; 0:
            once.
        progress: show a bar on a terminal.
    """
    now = CLOCKS[clock]
    calls = [_calls(job, now, turn_ms) for job in jobs]
    ms = np.empty((rounds, len(jobs)))
    order = range(len(jobs))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        numbers = range(-_WARM_ROUNDS, rounds)
        for number in track(numbers, "timing", total=len(numbers), shown=progress):
            for job in reversed(order) if number % 2 else order:
                ms[max(number, 0), job] = _turn(jobs[job], calls[job], now)
    finally:
        if collecting:
            gc.enable()
    return Turns(ms, tuple(calls))


def _calls(job: Job, now: Callable[[], int], turn_ms: float) -> int:
    """How many calls fill a turn."""
    if turn_ms <= 0:
        return 1
    job()
    once = _turn(job, 3, now)
    return int(np.clip(round(turn_ms / max(once, 1e-4)), 1, _MOST_CALLS))


def _turn(job: Job, calls: int, now: Callable[[], int]) -> float:
    """Milliseconds of one call; never 0, for ratios are taken of them."""
    if calls > 1:
        job()
    start = now()
    for _ in range(calls):
        job()
    return max(now() - start, 1) / 1e6 / calls


def _quartiles(values: NDArray[np.float64]) -> Quartiles:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)
