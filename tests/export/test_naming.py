"""Which axes of a file may vary, and that a file with such axes runs on other batches."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from qdq.errors import ExportError
from qdq.export.naming import name_tensors
from qdq.export.tracing import to_onnx


class Masked(nn.Module):
    """Sequences, a mask that all share, and what is left of them; the longest length as well."""

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        kept = x * mask
        return kept, mask.sum(1)


X, MASK = torch.randn(4, 5), torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0]])


def axes(values: Any) -> list[list[int | str]]:
    shapes = [each.type.tensor_type.shape.dim for each in values]
    return [[dim.dim_param or dim.dim_value for dim in shape] for shape in shapes]


def test_the_batch_is_the_first_axis_of_whatever_is_as_long_as_the_first_input() -> None:
    model = to_onnx(Masked().eval(), (X, MASK))
    assert axes(model.graph.input) == [["batch", 5], [1, 5]]
    assert axes(model.graph.output) == [["batch", 5], [1]]


def test_another_batch_runs_with_the_same_mask() -> None:
    content = to_onnx(Masked().eval(), (X, MASK)).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    x = torch.randn(7, 5)
    found, _ = session.run(None, {"input": x.numpy(), "input_1": MASK.numpy()})
    np.testing.assert_array_equal(found, x * MASK)


def test_a_number_has_no_axis_and_the_batch_is_the_next_inputs() -> None:
    named = name_tensors((torch.tensor(2.0), X, MASK), X.sum(), dynamic_batch=True)
    assert named.axes == {"input_1": {0: "batch"}}


def test_nothing_varies_unless_asked_for() -> None:
    named = name_tensors({"x": X, "masks": [MASK, MASK]}, [X], dynamic_batch=False)
    assert named.axes == {}
    assert (named.inputs, named.outputs) == (["x", "masks", "masks_1"], ["output"])


@pytest.mark.parametrize(
    "options", [{"input_names": ["x"], "output_names": ["x"]}, {"input_names": ["output"]}]
)
def test_an_input_and_an_output_of_one_name_are_refused(options: Any) -> None:
    name = options["input_names"][0]
    with pytest.raises(ExportError) as caught:
        name_tensors(X, X, dynamic_batch=True, **options)
    assert str(caught.value) == (
        f"an input and an output are called {name!r}\n  fix: pass output_names= that no input has"
    )


@pytest.mark.parametrize("names", ["x", [""], [3]])
def test_names_are_a_list_of_texts(names: Any) -> None:
    with pytest.raises(ExportError) as caught:
        name_tensors(X, X, dynamic_batch=True, input_names=names)
    assert str(caught.value) == (
        f"input_names={names!r} does not name 1 inputs\n  fix: pass 1 different names"
    )


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([1], "dynamic_shapes=[1] is no dict"),
        ({"input": [1]}, "dynamic_shapes={'input': [1]} names no sizes"),
        ({"input": {1: 5}}, "dynamic_shapes={'input': {1: 5}} is no axis of 2 with a name"),
        ({"input": {"1": "n"}}, "dynamic_shapes={'input': {1: 'n'}} is no axis of 2 with a name"),
    ],
)
def test_dynamic_shapes_of_another_form_are_refused(shapes: Any, text: str) -> None:
    with pytest.raises(ExportError) as caught:
        name_tensors(X, X, dynamic_batch=True, dynamic_shapes=shapes)
    assert str(caught.value) == (
        f'{text}\n  fix: pass {{"input": {{2: "height"}}}}: axes from 0, and a name for each size'
    )
