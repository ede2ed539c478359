"""Jobs in turn, on a clock that the jobs themselves move."""

import gc
from collections.abc import Callable

import pytest

from qdq.graph.benching import turns
from qdq.graph.benching.turns import take_turns


class World:
    """A clock, and jobs that take as long as they are told."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls: list[str] = []
        self.load = 1.0  # of a neighbour: everything takes so much longer

    def job(self, name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.ns += round(ms * 1e6 * self.load)

        return run


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setitem(turns.CLOCKS, "cpu", lambda: world.ns)
    monkeypatch.setitem(turns.CLOCKS, "wall", lambda: 2 * world.ns)
    return world


def test_times_and_ratios_are_those_of_one_call(world: World) -> None:
    found = take_turns([world.job("a", 0.5), world.job("b", 2.0)], 8)
    assert found.ms.shape == (8, 2)
    assert found.spent(0) == pytest.approx((0.5, 0.5, 0.5))
    assert found.ratio(1) == pytest.approx((4.0, 4.0, 4.0))
    assert found.ratio(1, base=1) == (1.0, 1.0, 1.0)


def test_a_short_job_fills_its_turn_with_calls_and_a_long_one_runs_once(world: World) -> None:
    found = take_turns([world.job("a", 0.1), world.job("b", 70.0)], 2, turn_ms=5.0)
    assert found.calls == (50, 1)


def test_every_other_round_goes_backwards(world: World) -> None:
    take_turns([world.job(name, 1.0) for name in "abc"], 2, turn_ms=1.0)
    assert "".join(world.calls[-12:]) == "abccbaabccba"


def test_ratios_stay_though_a_neighbour_comes_and_goes(world: World) -> None:
    rounds = 0

    def first() -> None:
        nonlocal rounds
        rounds += 1
        world.load = 5.0 if rounds // 3 % 2 else 1.0  # for some rounds all takes five times longer
        world.ns += round(1e7 * world.load)

    found = take_turns([first, world.job("b", 5.0)], 40)
    low, middle, high = found.spent(1)
    assert high > 4 * low
    assert found.ratio(1) == pytest.approx((0.5, 0.5, 0.5))
    assert middle in (pytest.approx(low), pytest.approx(high))


def test_the_clock_is_the_one_that_was_asked_for(world: World) -> None:
    assert take_turns([world.job("a", 3.0)], 3, clock="wall").spent(0)[1] == pytest.approx(6.0)


def test_a_clock_that_stands_still_gives_no_zero() -> None:
    found = take_turns([lambda: None], 3, turn_ms=0.0)
    assert (found.ms > 0).all()


@pytest.mark.parametrize("fails", [False, True])
def test_the_garbage_collector_is_as_it_was(fails: bool) -> None:
    seen = []

    def job() -> None:
        seen.append(gc.isenabled())
        if fails and len(seen) > 12:
            raise RuntimeError("stop")

    assert gc.isenabled()
    if fails:
        with pytest.raises(RuntimeError, match="stop"):
            take_turns([job], 20, turn_ms=0.0)
    else:
        take_turns([job], 20, turn_ms=0.0)
    assert gc.isenabled()
    assert not seen[-1]
