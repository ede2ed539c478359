"""The nets a machine is measured with run as their names and their bills say."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from qdq.graph.benching.chains import REORDER, Chain, Sample
from qdq.graph.benching.samples import samples
from qdq.graph.explaining.explanation import explain
from qdq.targets.costs.measured import MACHINES

ALL = tuple(samples())


def test_every_row_and_term_of_a_table_is_on_several_bills() -> None:
    found = Counter((row, term) for each in ALL for row, terms in each.bill for term in terms)
    known = {(row, term) for row, terms in MACHINES["x86_vnni"][2].items() for term in terms}
    assert all(found[each] >= 3 for each in known)
    assert {row for row, _ in found} - {row for row, _ in known} == {REORDER}


def test_no_two_nets_bear_one_name() -> None:
    assert len({each.name for each in ALL}) == len(ALL)


@pytest.mark.parametrize("each", ALL[::7], ids=lambda each: each.name)
def test_it_runs_in_the_numbers_it_names(each: Sample, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(each.content)
    report = explain(path)
    fates = [row.fate for row in report.rows if row.op in ("Conv", "Gemm", "Add", "Mul")]
    floats = fates.count("float")
    if each.name.endswith("float"):
        assert floats == len(fates)
    else:
        assert floats == (2 if "between" in each.name else 0)


def test_a_net_in_integers_computes_what_it_computes_in_float() -> None:
    def net(integer: bool) -> np.ndarray:
        chain = Chain(4, 32)
        chain = chain.enter("vector") if integer else chain
        content = chain.gemm(64).gemm(16).sample("m").content
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(1).uniform(0, 1, (4, 32)).astype(np.float32)
        return session.run(None, {"x": x})[0]

    assert np.abs(net(True) - net(False)).max() < 0.15  # three steps of 0.05


def test_a_bill_counts_what_the_net_has() -> None:
    chain = Chain(1, 3, 8, 8).enter("image", more=1).conv(16, 3, stride=2).leave("map")
    assert chain.sample("m").bill == [
        ("session", {"call": 1.0}),
        ("image.in", {"element": 192.0, "call": 1.0}),
        ("copy", {"element": 256.0, "call": 1.0}),
        (
            "conv.int8",
            {
                "output": 256,
                "call": 1.0,
                "far_weight": 0,
                "mac": 16 * 9 * 4 * 16,
                "position": 16 * 9,
            },
        ),
        ("map.out", {"element": 256.0, "call": 1.0}),
    ]
