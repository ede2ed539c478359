"""torch.onnx called one way: names, axes, opsets, and errors a user can act on."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from qdq.errors import ExportError, InputError
from qdq.export.tracing import to_onnx


class Weigh(nn.Module):
    """First input times 2 minus second."""

    def forward(self, first: Tensor, second: Tensor, third: Tensor | None = None) -> Any:
        result = first * 2 - second
        return result if third is None else (result, third + 1)


def inputs_of(model: Any) -> list[str]:
    return [each.name for each in model.graph.input]


def axes(values: Any) -> list[list[int | str]]:
    shapes = [each.type.tensor_type.shape.dim for each in values]
    return [[dim.dim_param or dim.dim_value for dim in shape] for shape in shapes]


def run(model: Any, feed: dict[str, Tensor]) -> list[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {key: value.numpy() for key, value in feed.items()}))


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
def test_the_model_declares_the_opset_alone(opset: int) -> None:
    model = to_onnx(nn.Linear(3, 2).eval(), torch.randn(1, 3), opset=opset)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]


def test_a_float_model_computes_in_onnxruntime_what_it_does_in_torch() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(5, 3)
    want = model(x).detach().numpy()
    np.testing.assert_allclose(run(to_onnx(model, x), {"input": x})[0], want, rtol=1e-5, atol=1e-6)


def test_tensors_are_numbered_and_keywords_keep_their_names() -> None:
    x = torch.randn(2, 3)
    assert inputs_of(to_onnx(Weigh().eval(), (x, x))) == ["input", "input_1"]
    assert inputs_of(to_onnx(Weigh().eval(), {"first": x, "second": x})) == ["first", "second"]
    assert [each.name for each in to_onnx(Weigh().eval(), (x, x, x)).graph.output] == [
        "output",
        "output_1",
    ]


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_each_keyword_reaches_its_own_argument_in_whatever_order_it_comes(
    order: tuple[str, str],
) -> None:
    values = {"first": torch.tensor([[5.0]]), "second": torch.tensor([[1.0]])}
    model = to_onnx(Weigh().eval(), {name: values[name] for name in order})
    assert run(model, values)[0] == [[9.0]]


def test_a_keyword_that_is_no_tensor_takes_no_name() -> None:
    x = torch.randn(2, 3)
    model = to_onnx(Weigh().eval(), {"first": x, "third": None, "second": x})
    assert inputs_of(model) == ["first", "second"]


def test_the_first_axis_varies_exactly_if_asked_for() -> None:
    x = torch.randn(2, 3)
    free = to_onnx(Weigh().eval(), (x, x))
    fixed = to_onnx(Weigh().eval(), (x, x), dynamic_batch=False)
    assert axes(free.graph.input) == [["batch", 3], ["batch", 3]]
    assert axes(free.graph.output)[0][0] == "batch"
    assert axes(fixed.graph.input) == axes(fixed.graph.output) * 2 == [[2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"input_names": ["a"]}, "input_names=['a'] does not name 2 inputs"),
        ({"input_names": ["a", "a"]}, "input_names=['a', 'a'] does not name 2 inputs"),
        ({"output_names": ["a", "b"]}, "output_names=['a', 'b'] does not name 1 outputs"),
    ],
)
def test_names_that_do_not_fit_are_refused(names: dict[str, list[str]], text: str) -> None:
    x = torch.randn(2, 3)
    with pytest.raises(ExportError) as caught:
        to_onnx(Weigh().eval(), (x, x), **names)  # type: ignore[arg-type]
    wanted = 2 if "input_names" in names else 1
    assert str(caught.value) == f"{text}\n  fix: pass {wanted} different names"


def test_inputs_the_model_does_not_take_are_refused_before_the_exporter_sees_them() -> None:
    with pytest.raises(InputError) as caught:
        to_onnx(nn.Linear(3, 2).eval(), torch.randn(1, 4))
    assert caught.value.what.startswith("the model does not take inputs of shape (1, 4): Runtime")
    assert (caught.value.at, caught.value.fix) == (
        "Linear",
        "pass inputs as the float model takes them",
    )
