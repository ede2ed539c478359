"""Layers that run faster in float stay float, truly, where the target asks for it."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qdq
from qdq.errors import SpecError, StepError
from qdq.targets.costs.tables import cost_table

WIDTHS = (640, 128, 16, 128, 640)  # of an autoencoder
FASTEST = qdq.targets.get("onnxruntime", fastest=True)


def matrices(*widths: int) -> nn.Sequential:
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*[each for pair in layers for each in pair][:-1]).eval()


def images() -> nn.Sequential:
    """A small first layer in front of two large ones, and a small one at the end."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 128, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(128, 2, 1), nn.ReLU()),
    ).eval()


def test_it_is_off_unless_it_is_asked_for() -> None:
    assert not qdq.targets.get("onnxruntime").fastest
    report = qdq.insert(matrices(16, 16), torch.zeros(1, 16), target="onnxruntime")
    assert {row.name for row in report.select("quantize")} == {"0.input", "0.weight"}


def test_small_products_between_large_ones_stay_float_and_say_why() -> None:
    net = matrices(*WIDTHS)
    report = qdq.insert(net, torch.zeros(1, 640), target=FASTEST)
    on = {row.name for row in report.select("quantize")}
    assert on == {"0.input", "0.weight", "6.input", "6.weight"}
    why = {row.name: row.why for row in report.select("off")}
    assert why["2.weight"].startswith("predicted 1.1 us in float, and in integers 1.7 us with")
    assert why["2.weight"].endswith("(x86_vnni)")


def test_the_rows_of_the_example_do_not_matter() -> None:
    sites = [
        {
            row.name
            for row in qdq.insert(matrices(*WIDTHS), torch.zeros(rows, 640), target=FASTEST).select(
                "quantize"
            )
        }
        for rows in (1, 64)
    ]
    assert sites[0] == sites[1]


def test_what_is_left_float_runs_float_and_the_rest_in_integers(tmp_path: Path) -> None:
    net, x = images(), torch.randn(2, 1, 28, 28)
    report = qdq.insert(net, x, target=FASTEST)
    on = {row.name.rpartition(".")[0] for row in report.select("quantize")}
    assert {"1.0", "2.0"} <= on
    assert "0.0" not in on
    qdq.calibrate(net, [x], method="max", progress=False)
    qdq.export_onnx(net, x, tmp_path / "m.onnx")
    convs = [row for row in qdq.graph.explain(tmp_path / "m.onnx").rows if row.op == "Conv"]
    names = [f"{index}.0" for index in range(4)]
    assert [row.fate for row in convs] == ["integer" if each in on else "float" for each in names]


def test_a_float_layer_between_integer_ones_runs_float_too(tmp_path: Path) -> None:
    net, x = matrices(*WIDTHS), torch.randn(2, 640)
    qdq.insert(net, x, target=FASTEST)
    qdq.calibrate(net, [x], method="max", progress=False)
    qdq.export_onnx(net, x, tmp_path / "m.onnx")
    rows = [row for row in qdq.graph.explain(tmp_path / "m.onnx").rows if row.op == "Gemm"]
    assert [row.fate for row in rows] == ["integer", "float", "float", "integer"]


def test_a_net_that_integers_slow_down_is_left_float_and_written_as_such(tmp_path: Path) -> None:
    net, x = matrices(16, 16, 16), torch.randn(2, 16)
    report = qdq.insert(net, x, target=FASTEST)
    assert not report.select("quantize")
    assert all(
        row.why.startswith("no mixture is clearly faster than the whole net in float: ")
        for row in report.select("off")
    )
    qdq.export_onnx(net, x, tmp_path / "m.onnx")
    assert qdq.graph.explain(tmp_path / "m.onnx").integer_nodes == 0


def test_a_table_of_ones_own_decides_instead(tmp_path: Path) -> None:
    table = cost_table("x86_vnni")
    dear = {"mac": 1e3, "call": 1.0, "far_weight": 0.0}
    ns = table.ns | {"vector.float": dear}
    type(table)("mine", "by hand", ns).to_json(tmp_path / "costs.json")
    target = qdq.targets.get("onnxruntime", fastest=True, costs=str(tmp_path / "costs.json"))
    report = qdq.insert(matrices(16, 16, 16), torch.zeros(1, 16), target=target)
    assert len(report.select("quantize")) == 4


def test_what_nobody_measured_stays_float_and_says_so() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(512, 512, batch_first=True), nn.Linear(512, 512)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    report = qdq.insert(Net().eval(), torch.zeros(1, 64, 512), target=FASTEST)
    assert {row.name for row in report.select("quantize")} == {"head.input", "head.weight"}
    assert {row.why for row in report.select("off") if row.name.startswith("cell.")} == {
        "nobody measured lstm, so it stays float (x86_vnni)"
    }


def test_what_the_user_switched_off_is_no_candidate() -> None:
    net = matrices(*WIDTHS)
    report = qdq.insert(net, torch.zeros(1, 640), target=FASTEST, ignore="0")
    assert {row.name for row in report.select("quantize")} == {"6.input", "6.weight"}


def test_a_target_without_a_table_cannot_be_the_fastest() -> None:
    with pytest.raises(SpecError) as caught:
        qdq.targets.get("tensorrt", fastest=True)
    assert str(caught.value) == (
        "target 'tensorrt' has no table of costs to find the fastest placement by\n"
        "  fix: pass costs='x86_vnni', or measure this machine: `qdq bench --fit costs.json`"
    )


def test_a_forward_without_data_is_not_enough() -> None:
    with pytest.raises(StepError, match="sizes of tensors, which are not known"):
        qdq.insert(matrices(16, 16), target=FASTEST)
