"""A killed calibration goes on: the same bytes as one that never stopped, or a clear refusal."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from counting import batches, counted, net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qdq.calibration.files import load_histograms, save_histograms
from qdq.calibration.resumption import Resumption
from qdq.errors import InputError


def run(
    model: nn.Module, data: list[Tensor], path: Path, *, every: int = 2, until: int = 99
) -> int:
    """Count as a calibration does, killed after `until` batches; how many batches it ran."""
    state = Resumption(model, path, every=every)
    histograms = state.histograms
    ran = 0
    for index, batch in state.rest(enumerate(data)):
        if index >= until:
            return ran
        histograms = counted(model, [batch], histograms)
        ran += 1
        state.count(batch)
        if state.due:
            state.save(histograms)
    state.save(histograms)
    return ran


@given(
    kills=st.lists(st.integers(0, 7), max_size=3),
    every=st.integers(1, 4),
    count=st.integers(1, 7),
)
@settings(max_examples=25, deadline=None)
def test_any_kills_and_resumes_end_in_the_bytes_of_one_pass(
    kills: list[int], every: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("resumed")
    model, data = net(), batches(count)
    run(model, data, folder / "whole")
    for kill in kills:
        run(model, data, folder / "parts", every=every, until=kill)
    run(model, data, folder / "parts", every=every)
    assert (folder / "parts").read_bytes() == (folder / "whole").read_bytes()
    _, origin = load_histograms(folder / "whole")
    assert (origin.batches, origin.samples) == (count, sum(map(len, data)))


def test_no_batch_is_run_twice_but_those_after_the_last_save(tmp_path: Path) -> None:
    model, data = net(), batches(7)
    assert run(model, data, tmp_path / "h", every=2, until=5) == 5
    assert load_histograms(tmp_path / "h")[1].batches == 4
    assert run(model, data, tmp_path / "h", every=2) == 3
    assert run(model, data, tmp_path / "h", every=2) == 0


def test_more_data_than_before_is_counted_on(tmp_path: Path) -> None:
    model, data = net(), batches(6)
    run(model, data[:3], tmp_path / "h")
    assert run(model, data, tmp_path / "h") == 3
    run(model, data, tmp_path / "whole")
    assert (tmp_path / "h").read_bytes() == (tmp_path / "whole").read_bytes()


def test_dropped_sites_are_kept(tmp_path: Path) -> None:
    state = Resumption(net(), tmp_path / "h")
    state.save({}, {"2.input"})
    assert Resumption(net(), tmp_path / "h").dropped == ("2.input",)


def test_of_several_shares_each_has_a_file_of_its_own(tmp_path: Path) -> None:
    for own in (0, 1):
        state = Resumption(net(), tmp_path / "h", share=(own, 2))
        state.count(batches(1)[0])
        state.save({})
    assert {path.name for path in tmp_path.iterdir()} == {"h.0-of-2", "h.1-of-2"}
    assert Resumption(net(), tmp_path / "h", share=(1, 2)).batches == 1
    assert load_histograms(tmp_path / "h.1-of-2")[1].share == (1, 2)


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = Resumption(net(), every=1)
    state.count(batches(2)[1])
    assert not state.due
    state.save({})
    assert (state.batches, state.samples) == (1, 2)
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "other weights": (
        lambda path: run(net(seed=1), batches(4), path),
        "from this file: they differ in the weights 0.bias, 0.weight, 2.bias, 2.weight",
    ),
    "another order": (
        lambda path: run(net(), batches(4)[::-1], path),
        "batch 3 is not what it was when it was counted",
    ),
    "fewer batches": (
        lambda path: run(net(), batches(3), path),
        "there are 3 batches, and 4 were counted",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_on_is_refused_and_the_file_stays(case: str, tmp_path: Path) -> None:
    again, what = REFUSED[case]
    run(net(), batches(4), tmp_path / "h")
    before = (tmp_path / "h").read_bytes()
    with pytest.raises(InputError) as caught:
        again(tmp_path / "h")
    assert what in caught.value.what
    assert caught.value.at == str(tmp_path / "h")
    assert "or delete the file to count anew" in caught.value.fix
    assert (tmp_path / "h").read_bytes() == before


def test_another_share_is_refused(tmp_path: Path) -> None:
    Resumption(net(), tmp_path / "h").save({})
    (tmp_path / "h").rename(tmp_path / "h.1-of-2")
    with pytest.raises(InputError, match="it holds share 0 of 1, and here is share 1 of 2"):
        Resumption(net(), tmp_path / "h", share=(1, 2))


def test_merged_counts_are_no_place_to_go_on_from(tmp_path: Path) -> None:
    state = Resumption(net(), tmp_path / "h")
    save_histograms({}, tmp_path / "h", replace(state.origin(), share=None))
    with pytest.raises(InputError, match="it holds merged counts, and here is share 0 of 1"):
        Resumption(net(), tmp_path / "h")


def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("hello")
    with pytest.raises(InputError, match="this is no safetensors file"):
        Resumption(net(), tmp_path / "h")


def test_saving_every_zero_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_every=0 never saves"):
        Resumption(net(), tmp_path / "h", every=0)
