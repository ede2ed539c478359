from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qdq.export.writing import export_onnx
from qdq.validation.points import Point, points_of
from tests.export.export_nets import example, prepared
from tests.graph.graph_sketch import Sketch, written
from tests.graph.simulation.simulated_nodes import run


def sketched(*pairs: tuple[str, dict[str, Any]]) -> onnx.ModelProto:
    """x through one pair after the other."""
    draw = Sketch(2, 3)
    x = draw.x
    for site, options in pairs:
        x = draw.pair(x, site, **options)
    return onnx.load_model_from_string(written(draw.done(draw.node("Relu", x))))


def test_a_file_of_ours_names_its_sites_and_weights_are_none_of_them(tmp_path: Path) -> None:
    export_onnx(prepared("mlp"), example("mlp"), tmp_path / "m.onnx")
    points = points_of(onnx.load(tmp_path / "m.onnx"))
    names = [point.name for point in points]
    assert names[:2] == ["0.input", "2.input"]
    assert not any("weight" in name or "bias" in name for name in names)
    assert {point.zero_point.dtype for point in points} == {np.dtype(np.uint8)}


def test_a_strangers_file_has_points_under_the_names_that_q_reads() -> None:
    (first, second) = points_of(sketched(("a", {"scale": 0.5}), ("b", {"kind": np.int8})))
    assert (first.name, first.tensor, first.source) == ("x", "a", "x")
    assert (first.scale, first.zero_point) == (np.float32(0.5), np.uint8(0))
    assert (second.name, second.tensor) == ("a", "b")
    assert second.zero_point.dtype == np.int8


def test_codes_that_two_dq_read_are_one_point_under_the_site_that_has_a_name() -> None:
    draw = Sketch(2, 3)
    first = draw.pair(draw.x, "a")
    node = first.inputs[0]
    second = draw.node("DequantizeLinear", *node.inputs)
    model = onnx.load_model_from_string(written(draw.done(draw.node("Add", first, second))))
    assert [point.tensor for point in points_of(model)] == ["a"]
    onnx.helper.set_model_props(model, {"qdq.sites": '{"add.input_1": "DequantizeLinear_0.out"}'})
    (point,) = points_of(model)
    assert (point.name, point.tensor) == ("add.input_1", "DequantizeLinear_0.out")


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 3}', "3"])
def test_site_names_that_are_none_are_left_aside(text: str) -> None:
    model = sketched(("a", {}))
    onnx.helper.set_model_props(model, {"qdq.sites": text})
    assert [point.name for point in points_of(model)] == ["x"]


def test_computed_grids_are_no_points() -> None:
    draw = Sketch(2, 3)
    scale = draw.node("ReduceMax", draw.x, keepdims=0)
    codes = draw.node("QuantizeLinear", draw.x, scale, out=np.uint8)
    model = onnx.load_model_from_string(
        written(draw.done(draw.node("DequantizeLinear", codes, scale)))
    )
    assert points_of(model) == []


def test_a_point_gives_onnxruntimes_codes_and_values_along_its_axis() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    scale, zero = np.float32([0.01, 0.02, 0.5]), np.int8([-3, 0, 9])
    point = Point("p", "t", "s", scale, zero, axis=1)
    codes = run("QuantizeLinear", [x, scale, zero], axis=1)
    np.testing.assert_array_equal(point.codes(x), codes)
    floats = run("DequantizeLinear", [codes, scale, zero], axis=1)
    np.testing.assert_array_equal(point.floats(codes), floats)
