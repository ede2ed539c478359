"""What torch's exporter cannot write: one short error of ours, and silence beside it."""

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import ExportError
from qdq.export.refusals import explain_refusal
from qdq.export.tracing import to_onnx


class Function(nn.Module):
    """A net that is one function."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def refusal(run: Callable[[Tensor], Tensor], x: Tensor, opset: int = 13) -> ExportError:
    with pytest.raises(ExportError) as caught:
        to_onnx(Function(run).eval(), x, opset=opset)
    return caught.value


def test_an_operator_that_no_opset_has_is_named() -> None:
    error = refusal(torch.linalg.eigvalsh, torch.eye(3)[None])
    assert str(error) == (
        "torch.onnx could not export this model: UnsupportedOperatorError: Exporting the operator "
        "'aten::linalg_eigvalsh' to ONNX opset version 13 is not supported\n"
        "  at:  Function\n"
        "  fix: compute it without aten::linalg_eigvalsh, or outside of the model"
    )


def test_an_operator_of_a_newer_opset_asks_for_that_opset() -> None:
    x, grid = torch.randn(1, 1, 4, 4), torch.zeros(1, 4, 4, 2)
    error = refusal(lambda x: F.grid_sample(x, grid, align_corners=False), x)
    assert error.what.endswith(
        "is not supported. Support for this operator was added in version 16"
    )
    assert error.fix == "pass opset=16"
    to_onnx(Function(lambda x: F.grid_sample(x, grid, align_corners=False)).eval(), x, opset=16)


def test_a_call_that_the_exporter_objects_to_is_told_without_its_graph(
    capfd: pytest.CaptureFixture[str],
) -> None:
    error = refusal(lambda x: F.adaptive_max_pool2d(x, 3), torch.randn(1, 1, 4, 4))
    assert error.what == (
        "torch.onnx could not export this model: SymbolicValueError: Unsupported: ONNX export of "
        "operator adaptive_max_pool2d, output size that are not factor of input size"
    )
    assert error.fix == "compute it without adaptive_max_pool2d, or outside of the model"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("on", [False, True])
def test_torchs_log_is_left_as_it_was(on: bool) -> None:
    before = torch._C._jit_is_onnx_log_enabled()
    torch._C._jit_set_onnx_log_enabled(on)
    try:
        to_onnx(nn.Linear(3, 2).eval(), torch.randn(1, 3))
        assert torch._C._jit_is_onnx_log_enabled() is on
    finally:
        torch._C._jit_set_onnx_log_enabled(before)


def test_any_other_words_are_passed_on() -> None:
    error = explain_refusal(ValueError("first\nsecond"), nn.Linear(1, 1), opset=13)
    assert error.what == "torch.onnx could not export this model: ValueError: first"
    assert error.fix == (
        "export the float model with torch.onnx.export(..., dynamo=False) to see what it objects to"
    )


def test_torch_export_names_the_operator_it_has_no_onnx_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    error = refusal(torch.linalg.eigvalsh, torch.eye(3)[None].repeat(2, 1, 1), opset=18)
    assert str(error) == (
        "torch.onnx could not export this model: it has no ONNX for aten._linalg_eigh\n"
        "  at:  Function\n"
        "  fix: compute it without aten._linalg_eigh, or outside of the model"
    )
    assert capfd.readouterr() == ("", "")


def test_a_forward_that_fixes_the_batch_is_told_so() -> None:
    error = refusal(lambda x: x.reshape(2, -1), torch.randn(2, 3), opset=18)
    assert str(error) == (
        "torch.onnx could not export this model: the forward fixes the size 'batch' to 2\n"
        "  at:  Function\n"
        "  fix: compute it for any size, or pass dynamic_batch=False and no dynamic_shapes of it"
    )


def test_a_way_that_depends_on_data_is_left_to_the_other_exporter() -> None:
    error = refusal(lambda x: x * 2 if x.sum() > 0 else x, torch.randn(2, 3), opset=18)
    assert error.what.startswith(
        "torch.onnx could not export this model: GuardOnDataDependentSymNode: Could not guard on "
        "data-dependent expression"
    )
    assert error.fix == "pass opset=17, which another exporter of torch's writes"


def test_sizes_that_become_constants_are_not_warned_of() -> None:
    def run(x: Tensor) -> Tensor:
        return x * 2 if x.shape[1] > int(x.sum()) else x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(Function(run).eval(), torch.zeros(2, 3))
    with pytest.warns(torch.jit.TracerWarning):  # type: ignore[attr-defined]
        torch.onnx.export(Function(run).eval(), (torch.zeros(2, 3),), io.BytesIO(), dynamo=False)
