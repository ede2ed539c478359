import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from qdq.errors import GraphError, InputError
from qdq.export.tracing import to_onnx
from qdq.validation.comparing import top1, validate


@pytest.fixture
def linear(tmp_path: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).eval()
    path = tmp_path / "m.onnx"
    onnx.save(to_onnx(model, torch.zeros(1, 4)), path)
    return model, path


def data(rows: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, generator=generator)
    return [(x[:7], torch.arange(7) % 3), (x[7:], torch.arange(rows - 7) % 3)]


def test_the_figures_are_those_of_numpy(linear: tuple[nn.Module, Path]) -> None:
    model, path = linear
    other = nn.Linear(4, 3).eval()
    found = validate(path, data(), reference={"same": model, "other": other}, progress=False)
    x = torch.cat([batch[0] for batch in data()])
    y = torch.cat([batch[1] for batch in data()]).numpy()
    with torch.no_grad():
        own, theirs = model(x).numpy(), other(x).numpy()
    assert found.samples == 10
    assert found.metric_name == "top1"
    assert found.metric == pytest.approx((own.argmax(1) == y).mean())
    same, different = found.rows
    assert (same.reference, same.agreement) == ("same", 1.0)
    assert same.sqnr_db > 120
    assert different.metric == pytest.approx((theirs.argmax(1) == y).mean())
    assert different.agreement == pytest.approx((theirs.argmax(1) == own.argmax(1)).mean())
    noise = ((theirs - own).astype(np.float64) ** 2).sum()
    expected = 10 * math.log10((theirs.astype(np.float64) ** 2).sum() / noise)
    assert different.sqnr_db == pytest.approx(expected, abs=1e-3)
    assert different.largest == pytest.approx(np.abs(theirs - own).max(), rel=1e-4)


def test_a_file_may_be_the_reference_and_targets_may_be_absent(
    linear: tuple[nn.Module, Path],
) -> None:
    _, path = linear
    found = validate(path, [data()[0][0]], reference=path, progress=False)
    assert (found.metric, found.metric_name) == (None, "")
    assert found.rows[0].sqnr_db == math.inf
    assert found.to_dict()["rows"][0]["sqnr_db"] == "inf"


def test_a_metric_of_the_users_own_is_used(linear: tuple[nn.Module, Path]) -> None:
    def always_half(outputs: np.ndarray, targets: np.ndarray) -> float:
        assert len(outputs) == len(targets) == 10
        return 0.5

    found = validate(linear[1], data(), metric=always_half, progress=False)
    assert (found.metric_name, found.metric) == ("always_half", 0.5)


def test_batches_are_limited(linear: tuple[nn.Module, Path]) -> None:
    assert validate(linear[1], data(), batches=1, progress=False).samples == 7


def test_top1_counts_positions_of_segmentation_too() -> None:
    scores = np.zeros((1, 2, 2, 2), np.float32)
    scores[0, 1, 0, 0] = 1
    assert top1(scores, np.array([[[1, 1], [0, 0]]])) == 0.75


def test_a_missing_file_a_broken_file_and_wrong_inputs_are_told_apart(
    linear: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    with pytest.raises(GraphError, match="there is no such ONNX file"):
        validate(tmp_path / "none.onnx", data(), progress=False)
    (tmp_path / "broken.onnx").write_bytes(linear[1].read_bytes()[:50])
    with pytest.raises(GraphError, match="this is no valid ONNX model"):
        validate(tmp_path / "broken.onnx", data(), progress=False)
    with pytest.raises(InputError, match=r"onnxruntime does not take input \(2, 5\)"):
        validate(linear[1], [torch.zeros(2, 5)], progress=False)
    with pytest.raises(InputError, match="the file takes 1 inputs"):
        validate(linear[1], [((torch.zeros(2, 4), torch.zeros(2)), None)], progress=False)
    with pytest.raises(InputError, match="the data holds no batch"):
        validate(linear[1], [], progress=False)


def test_a_reference_of_another_shape_is_refused(linear: tuple[nn.Module, Path]) -> None:
    with pytest.raises(InputError, match=r"wider gives \(10, 5\) and the file \(10, 3\)"):
        validate(linear[1], data(), reference={"wider": nn.Linear(4, 5)}, progress=False)


def test_a_record_comes_back_from_its_dictionary(linear: tuple[nn.Module, Path]) -> None:
    found = validate(linear[1], data(), reference=linear[0], progress=False)
    assert type(found).from_dict(found.to_dict()) == found
    with pytest.raises(InputError, match="this is no ValidationReport: samples"):
        type(found).from_dict({**found.to_dict(), "samples": "many"})


def test_exact_predicts_the_file_on_the_same_batches(linear: tuple[nn.Module, Path]) -> None:
    found = validate(linear[1], data(), exact=True, progress=False)
    assert found.exact is not None
    assert found.exact.samples == found.samples == 10
    assert found.exact.is_exact
    assert type(found).from_dict(found.to_dict()) == found
    assert "exact: " in str(found)


def test_exact_is_of_the_cpu_provider(linear: tuple[nn.Module, Path]) -> None:
    with pytest.raises(InputError, match="CPU provider, not CUDAExecutionProvider"):
        validate(linear[1], data(), providers=["CUDAExecutionProvider"], exact=True)


def test_targets_that_are_no_classes_are_refused(linear: tuple[nn.Module, Path]) -> None:
    x = data()[0][0]
    for targets in (torch.arange(5), torch.eye(7, 3), torch.zeros(7, 1)):
        with pytest.raises(InputError, match=r"targets \(.*\) are no classes of outputs \(7, 3\)"):
            validate(linear[1], [(x, targets)], progress=False)
    with pytest.raises(InputError, match=r"are no classes of outputs \(4,\)"):
        top1(np.zeros(4, np.float32), np.zeros(4))


def test_batches_without_rows_are_refused(linear: tuple[nn.Module, Path]) -> None:
    with pytest.raises(InputError, match="the batches hold no rows"):
        validate(linear[1], [torch.zeros(0, 4)], progress=False)


@pytest.mark.parametrize("rank", [0, 1])
def test_outputs_may_have_no_axis_of_classes(tmp_path: Path, rank: int) -> None:
    model = Mean(rank).eval()
    onnx.save(to_onnx(model, torch.zeros(2, 4)), tmp_path / "m.onnx")
    x = [torch.ones(2, 4), torch.zeros(2, 4)]
    found = validate(tmp_path / "m.onnx", x, reference=model, exact=True, progress=False)
    assert found.samples == (2, 4)[rank]
    assert (found.rows[0].agreement, found.rows[0].largest) == (1.0, 0.0)


class Mean(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.axes = (0, 1) if rank == 0 else (1,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axes)


def test_differences_of_unsigned_outputs_do_not_wrap(tmp_path: Path) -> None:
    paths = []
    for zero in (0, 3):
        node = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
        ends = [
            onnx.helper.make_tensor_value_info(name, kind, [2, 2])
            for name, kind in (("x", onnx.TensorProto.FLOAT), ("y", onnx.TensorProto.UINT8))
        ]
        held = [
            onnx.numpy_helper.from_array(np.float32(1), "scale"),
            onnx.numpy_helper.from_array(np.uint8(zero), "zero"),
        ]
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], held)
        imports = [onnx.helper.make_opsetid("", 13)]
        paths.append(tmp_path / f"{zero}.onnx")
        onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), paths[-1])
    found = validate(paths[1], [torch.ones(2, 2)], reference=paths[0], progress=False)
    assert found.rows[0].largest == 3.0


def test_keywords_that_name_some_inputs_and_not_others_are_refused(tmp_path: Path) -> None:
    x, y = torch.zeros(2, 4), torch.ones(2, 4)
    onnx.save(to_onnx(Difference().eval(), {"x": x, "y": y}), tmp_path / "m.onnx")
    names = [each.name for each in onnx.load(tmp_path / "m.onnx").graph.input]
    assert names == ["x", "y"]
    with pytest.raises(InputError, match="the file takes x, y and the batch has z, x"):
        validate(tmp_path / "m.onnx", [{"z": y, "x": x}], progress=False)


class Difference(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x - y
