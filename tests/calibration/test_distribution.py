"""Several processes, real ones: together they count what one process counts, bit for bit."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from counting import batches, counted, net
from counting_rank import BATCHES

import qdq
from qdq.calibration.distribution import merged_over_ranks, own_share, rank_and_ranks
from qdq.calibration.files import load_histograms, save_histograms
from qdq.calibration.origins import origin_of

ROOT = Path(qdq.__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes left behind: see counting_rank."""
    folder = tmp_path_factory.mktemp("ranks")
    script = str(Path(__file__).with_name("counting_rank.py"))
    given = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder)], env=given, stderr=subprocess.PIPE
        )
        for rank in range(4)
    ]
    try:
        said = [process.communicate(timeout=300)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(said)
    return folder


def in_one_process(path: Path, total: int) -> bytes:
    """The file of one pass over all the batches, its origin as after a merge."""
    data = batches(total)
    given = {"batches": total, "samples": sum(map(len, data)), "share": None}
    save_histograms(counted(net(), data), path, replace(origin_of(net()), **given))  # type: ignore[arg-type]
    return path.read_bytes()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_process_ends_with_the_bytes_of_one_pass(
    ranks: int, folder: Path, tmp_path: Path
) -> None:
    wanted = in_one_process(tmp_path / "one", BATCHES)
    for rank in range(ranks):
        if ranks > 1:
            assert (folder / f"{ranks}-{rank}").read_bytes() == wanted
    histograms, origin = load_histograms(folder / f"{ranks}-0")
    assert set(histograms) == {"0.input", "2.input"}
    assert origin.batches == BATCHES
    save_histograms(histograms, tmp_path / "again", replace(origin, share=None))
    assert (tmp_path / "again").read_bytes() == wanted


def test_processes_that_saw_no_batch_end_with_the_same(folder: Path, tmp_path: Path) -> None:
    wanted = in_one_process(tmp_path / "one", 2)
    assert [(folder / f"idle-{rank}").read_bytes() == wanted for rank in range(4)] == [True] * 4


def test_processes_with_different_weights_are_all_told(folder: Path) -> None:
    for rank in (0, 1):
        assert (folder / f"models-{rank}").read_text() == (
            "these histograms are of another model than the first: they differ in the weights "
            "0.bias, 0.weight, 2.bias, 2.weight\n"
            "  at:  process 1\n"
            "  fix: merge what one model counted: same factory, weights, ignore= and only="
        )


def test_an_error_in_one_process_ends_the_others_with_its_number(folder: Path) -> None:
    assert (folder / "failing-1").read_text() == "disk gone"
    assert (folder / "failing-0").read_text() == (
        "calibration failed in process 1 of 2\n  fix: see what that process says"
    )


def test_shares_are_every_nth_batch_and_lose_none() -> None:
    data = list(enumerate("abcdefg"))
    shares = [list(own_share(iter(data), (rank, 3))) for rank in range(3)]
    assert shares[1] == [(1, "b"), (4, "e")]
    assert sorted(each for share in shares for each in share) == data


def test_without_a_process_group_there_is_one_process_and_nothing_to_merge() -> None:
    assert rank_and_ranks() == (0, 1)
    histograms, origin = counted(net(), batches(1)), origin_of(net())
    assert merged_over_ranks(histograms, origin) == (histograms, origin)
