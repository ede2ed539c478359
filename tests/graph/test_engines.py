"""An engine's layers, in the shapes that TensorRT's inspector documents, beside the prediction.

No TensorRT is run: the texts are written by hand after its documentation, and what builds engines
is tried on a stand-in that only answers the calls that it documents.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from qdq.errors import GraphError, InputError
from qdq.graph import explain_engine
from qdq.graph.explaining import engines
from qdq.records.engine import EngineReport
from tests.graph.explained_files import file_of
from tests.graph.graph_sketch import Sketch

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP32, FP16 = "Row major linear FP32", "Channel major FP16 format where channel % 8 == 0"
HOW = (
    "  fix: write them with `trtexec --onnx=model.onnx --profilingVerbosity=detailed "
    "--exportLayerInfo=layers.json`"
)


def block(folder: Path) -> Path:
    """A residual block for TensorRT, then a curve that has no int8 kernel."""
    draw = Sketch(1, 32, 6, 6)

    def int8(x: gs.Tensor, site: str) -> gs.Tensor:
        return draw.pair(x, site, kind=np.int8)

    x = int8(draw.x, "in")
    inner = draw.node("Relu", draw.integer_conv(x, 32, 32, 1, 1, bias="float"))
    layer = draw.integer_conv(int8(inner, "inner"), 32, 32, 1, 1, bias="float")
    total = int8(draw.node("Relu", draw.node("Add", layer, x)), "total")
    return file_of(draw.done(draw.node("Tanh", total)), folder)


def layer(name: str, kind: str, read: list[str], given: str, **more: Any) -> dict[str, Any]:
    def tensors(types: list[str]) -> list[dict[str, Any]]:
        return [
            {"Name": f"t{i}", "Dimensions": [1, 32, 6, 6], "Format/Datatype": each}
            for i, each in enumerate(types)
        ]

    ends = {"Inputs": tensors(read), "Outputs": tensors([given])}
    return {"Name": name, "LayerType": kind, **ends, "TacticValue": "0x0", **more}


def as_recorded(*, second: str = INT8) -> list[dict[str, Any]]:
    """Layers as TensorRT 8 names them; a Relu goes unnamed into the layer in front of it."""
    return [
        layer("in/QuantizeLinear", "Reformat", [FP32], INT8, Origin="QDQ"),
        layer(
            "conv_0.weight.codes + conv_0.weight/DequantizeLinear + Conv_0",
            "CaskConvolution", [INT8], INT8,
        ),
        layer(
            "Reformatting CopyNode for Input Tensor 0 to Conv_1 + Add_0",
            "Reformat", [INT8], second,
        ),
        layer("Conv_1 + Add_0 + PWN(Relu_1)", "CaskConvolution", [second] * 2, INT8),
        layer("PWN(Tanh_0)", "PointWiseV2", [FP16], FP16),
    ]  # fmt: skip


def compared(
    folder: Path, layers: list[Any], path: Path | None = None, **sizes: int
) -> EngineReport:
    (folder / "layers.json").write_text(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}))
    return explain_engine(path or block(folder), folder / "layers.json", sizes=sizes)


def test_an_engine_as_predicted_differs_in_nothing(tmp_path: Path) -> None:
    report = compared(tmp_path, as_recorded())
    assert [(each.kind, each.fate) for each in report.layers] == [
        ("Reformat", "convert"),
        ("CaskConvolution", "integer"),
        ("Reformat", "integer"),
        ("CaskConvolution", "integer"),
        ("PointWiseV2", "float"),
    ]
    assert report.layers[3].nodes == ("Conv_1", "Add_0", "Relu_1")
    assert {each.name: (each.predicted, each.built) for each in report.rows} == {
        "Conv_0": ("integer", "integer"),
        "Relu_0": ("integer", None),
        "Conv_1": ("integer", "integer"),
        "Add_0": ("integer", "integer"),
        "Relu_1": ("integer", "integer"),
        "Tanh_0": ("float", "float"),
    }
    assert report.differing == ()
    assert str(report) == (
        f"{tmp_path / 'm.onnx'} on tensorrt, by {tmp_path / 'layers.json'}: 5 layers; of 6 nodes "
        "that compute 5 are named by a layer, 5 of them run in the numbers that were predicted"
    )


def test_a_layer_that_was_built_in_other_numbers_is_told(tmp_path: Path) -> None:
    report = compared(tmp_path, as_recorded(second=FP16))
    assert {each.name for each in report.differing} == {"Conv_1", "Add_0", "Relu_1"}
    assert report.layers[2].fate == "convert"
    assert str(report).splitlines()[1:3] == [
        "Conv_1: integer by its rules, float in Conv_1 + Add_0 + PWN(Relu_1)",
        "Add_0: integer by its rules, float in Conv_1 + Add_0 + PWN(Relu_1)",
    ]


def test_metadata_tells_the_nodes_where_the_name_does_not(tmp_path: Path) -> None:
    told = "[ONNX Layer: Conv_0]\u001e[ONNX Layer: Relu_0]\u001e[ONNX Layer: conv_0.weight]"
    layers = [layer("__myl_ConvRelu_myl0_3", "kgen", [INT8], INT8, Metadata=told)]
    report = compared(tmp_path, layers)
    assert report.layers[0].nodes == ("Conv_0", "Relu_0")
    built = {each.name: each.built for each in report.rows}
    assert (built["Conv_0"], built["Relu_0"], built["Conv_1"]) == ("integer", "integer", None)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("PWN(PWN(Relu_0), PWN(Relu_1, Tanh_0))", ("Relu_0", "Relu_1", "Tanh_0")),
        ("{ForeignNode[Conv_0...Add_0]}", ("Conv_0", "Add_0")),
        ("Conv_1 + PWN(Relu_1) + (Unnamed Layer* 3) [Shuffle]", ("Conv_1", "Relu_1")),
        ("Conv_0 || Conv_1", ("Conv_0", "Conv_1")),
        ("Conv_0 + Conv_0", ("Conv_0",)),
        ("Reformatting CopyNode for Output Tensor 0 to Conv_0 + Relu_0", ()),
        ("Conv_0.out", ()),
    ],
)
def test_a_name_is_taken_apart(tmp_path: Path, name: str, nodes: tuple[str, ...]) -> None:
    report = compared(tmp_path, [layer(name, "kgen", [FP16], FP16)])
    assert report.layers[0].nodes == nodes


def test_a_node_without_a_name_is_known_by_what_it_makes(tmp_path: Path) -> None:
    model = onnx.load(block(tmp_path))
    for node in model.graph.node:
        node.ClearField("name")
    onnx.save(model, tmp_path / "bare.onnx")
    layers = [layer("node_of_Add_0.out", "ElementWise", [FP32] * 2, FP32)]
    report = compared(tmp_path, layers, tmp_path / "bare.onnx")
    assert report.layers[0].nodes == ("Add -> Add_0.out",)
    assert [each.name for each in report.differing] == ["Add -> Add_0.out"]


def test_a_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report = compared(tmp_path, as_recorded())
    report.to_json(tmp_path / "report.json")
    assert EngineReport.from_dict(json.loads((tmp_path / "report.json").read_text())) == report


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"Layers": 3}', '{"Layers": [{"Name": "a", "Inputs": "b"}]}', "[" * 100_000],
)
def test_what_is_no_layers_of_an_engine_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        explain_engine(block(tmp_path), path)
    assert str(caught.value) == f"these are no layers of a TensorRT engine\n  at:  {path}\n{HOW}"


def test_an_engine_is_compared_for_tensorrt_and_its_variants_alone(tmp_path: Path) -> None:
    layers = tmp_path / "layers.json"
    layers.write_text(json.dumps({"Layers": as_recorded()}))
    path = block(tmp_path)
    rules = {each.rule for each in explain_engine(path, layers, target="tensorrt:8").predicted.rows}
    assert rules - {each.rule for each in explain_engine(path, layers).predicted.rows} == {"T06"}
    with pytest.raises(InputError) as caught:
        explain_engine(path, layers, target="onnxruntime")
    assert str(caught.value) == (
        "an engine is TensorRT's, and the target is 'onnxruntime'\n  fix: name the target: tensorrt"
    )


def test_names_alone_are_refused_with_the_option_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compared(tmp_path, ["Conv_0 + Relu_0", "Conv_1"])
    assert str(caught.value) == (
        "the layers are given by their names alone, without types\n"
        f"  at:  {tmp_path / 'layers.json'}\n{HOW}"
    )


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="the layers of the engine cannot be read"):
        explain_engine(block(tmp_path), tmp_path / "none.json")
    (tmp_path / "layers.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="the layers of the engine cannot be read"):
        explain_engine(block(tmp_path), tmp_path / "layers.json")
    monkeypatch.setattr(engines, "MOST_BYTES", 1)
    with pytest.raises(InputError, match="the file has 2 bytes, and layers of an engine need less"):
        explain_engine(block(tmp_path), tmp_path / "layers.json")


def test_without_tensorrt_the_error_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError) as caught:
        explain_engine(block(tmp_path))
    assert str(caught.value) == (
        "TensorRT is not installed here\n"
        "  fix: pip install tensorrt where there is an NVIDIA GPU; or build the engine elsewhere "
        "and pass its layers, written with `trtexec --onnx=model.onnx "
        "--profilingVerbosity=detailed --exportLayerInfo=layers.json`"
    )


class StandIn(ModuleType):
    """Answers the calls of the tensorrt package; it keeps what it was asked for."""

    def __init__(self, version: str, *, errors: tuple[str, ...] = (), plan: Any = b"plan") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.flags: list[Any] = []
        self.shapes: dict[str, list[int]] = {}
        shape = SimpleNamespace(
            set_shape=lambda name, low, usual, high: self.shapes.update({name: usual})
        )
        names = {0: "batch", 2: "height"}
        tensor = SimpleNamespace(name="x", shape=(-1, 32, -1, 6), get_dimension_name=names.get)
        network = SimpleNamespace(num_inputs=1, get_input=lambda index: tensor)
        config = SimpleNamespace(
            set_flag=self.flags.append, add_optimization_profile=lambda profile: None
        )
        text = json.dumps({"Layers": as_recorded()})
        inspector = SimpleNamespace(get_engine_information=lambda form: text)
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector)

        def create_network(flag: int) -> Any:
            self.flags.append(flag)
            return network

        self.Builder = lambda logger: SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: shape,
            build_serialized_network=lambda network, config: plan,
        )
        said = [SimpleNamespace(desc=lambda each=each: each) for each in errors]
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse_from_file=lambda path: not errors,
            num_errors=len(said),
            get_error=said.__getitem__,
        )
        self.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
        self.BuilderFlag = SimpleNamespace(INT8="int8", FP16="fp16")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
        self.LayerInformationFormat = SimpleNamespace(JSON=1)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)


@pytest.mark.parametrize(("version", "flag"), [("8.6.1", 1), ("10.3.0", 0)])
def test_an_engine_is_built_for_the_sizes_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, flag: int
) -> None:
    trt = StandIn(version)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    report = explain_engine(block(tmp_path), sizes={"height": 6})
    assert report.source == f"TensorRT {version}"
    assert report.differing == ()
    assert trt.flags == [flag, "int8", "fp16"]
    assert trt.shapes == {"x": [1, 32, 6, 6]}


def test_what_tensorrt_refuses_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = block(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn("10.3.0", errors=("no Foo", "no Bar")))
    with pytest.raises(GraphError) as caught:
        explain_engine(path)
    assert str(caught.value) == (
        f"TensorRT refuses this file: no Foo; no Bar\n  at:  {path}\n"
        "  fix: lint it for target 'tensorrt'"
    )
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn("10.3.0", plan=None))
    with pytest.raises(GraphError, match="TensorRT builds no engine of this file"):
        explain_engine(path)
