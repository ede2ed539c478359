"""Where pairs stand in the files of whole networks, judged by a checker written apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn

import qdq
from models.mobilenetv2 import mobilenet_v2
from models.resnet import resnet50
from models.senet import senet
from models.ssd import ssd
from models.unet import unet
from models.yolo import yolo
from tests.checking.executed import executed
from tests.checking.qdq_edges import missed_layers, quantized_layers, violations

TARGETS = ("tensorrt", "onnxruntime")
Build = Callable[[], nn.Module]


def bert() -> nn.Module:
    """BERT-base as transformers has it by default, with two layers instead of twelve."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(num_hidden_layers=2, attn_implementation="eager")
    return transformers.BertForSequenceClassification(config)  # type: ignore[no-any-return]


NETS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "resnet50": (resnet50, (2, 3, 32, 32)),
    "mobilenet_v2": (mobilenet_v2, (2, 3, 32, 32)),
    "senet": (senet, (2, 3, 32, 32)),
    "unet": (lambda: unet(width=8), (2, 3, 32, 32)),
    "ssd": (ssd, (2, 3, 64, 64)),
    "yolo": (lambda: yolo(num_classes=2), (2, 3, 32, 32)),
    "bert": (bert, (2, 8)),
}
SLOW = {"resnet50", "mobilenet_v2", "senet", "yolo", "bert"}
CASES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETS]


# Violations that are known, to be removed from here with their cause.


class Files(NamedTuple):
    """One net exported for each target, and how many layers with weights it has."""

    paths: dict[str, Path]
    layers: int


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """Export a net, once for all the tests that ask for it."""
    made: dict[str, Files] = {}

    def export(name: str) -> Files:
        if name not in made:
            made[name] = _exported(name, tmp_path_factory.mktemp(name))
        return made[name]

    return export


def _exported(name: str, folder: Path) -> Files:
    torch.manual_seed(0)
    build, shape = NETS[name]
    model = build().eval()
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = sum(type(each) in kinds for each in model.modules())
    batches = [_inputs(shape) for _ in range(3)]
    _fill_batch_norms(model, batches[0])
    paths = {target: folder / f"{target}.onnx" for target in TARGETS}
    qdq.insert(model, batches[0], target="tensorrt")
    qdq.calibrate(model, batches[1:], method="max", progress=False)
    for target, path in paths.items():
        qdq.retarget(model, target)
        qdq.export_onnx(model, batches[0], path)
    return Files(paths, layers)


def _inputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape) if len(shape) == 4 else torch.randint(0, 1000, shape)


@torch.no_grad()
def _fill_batch_norms(model: nn.Module, images: Any) -> None:
    """Give BatchNorms the statistics of their inputs, or the signal of random weights fades."""
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    if norms:
        model(images)
    for norm in norms:
        norm.eval()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_no_pair_breaks_a_rule_of_its_runtime(
    files: Callable[[str], Files], name: str, target: Any
) -> None:
    assert [str(each) for each in violations(files(name).paths[target], target)] == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_in_the_file_and_none_is_missed(
    files: Callable[[str], Files], name: str, target: Any
) -> None:
    net = files(name)
    counts = quantized_layers(net.paths[target])
    assert sum(count for _, count in counts.values()) >= net.layers
    assert sum(whole for whole, _ in counts.values()) > 0.5 * net.layers
    assert missed_layers(net.paths[target], target) == []


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_leaves_nothing_float_between_its_pairs(
    files: Callable[[str], Files], name: str
) -> None:
    ran = executed(files(name).paths["onnxruntime"])
    assert ran.float_layers == []
    assert ran.between_pairs == []
    assert sum(ran.integer.values()) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_no_pair_can_be_taken_out_of_a_clean_file_unnoticed(
    files: Callable[[str], Files], target: Any
) -> None:
    whole = onnx.load(files("ssd").paths[target])
    leaving = {output.name for output in whole.graph.output}
    last = {node.input[0] for node in whole.graph.node if not leaving.isdisjoint(node.output)}
    # a stem reads codes with one more channel: there is no pair to take out
    paired = {node.input[0] for node in whole.graph.node if node.op_type == "DequantizeLinear"}
    quantizers = [
        node
        for node in whole.graph.node
        # onnxruntime moves codes through what stands between such a pair and the next by itself
        if node.op_type == "QuantizeLinear" and "/before_" not in node.name
        if node.output[0] in paired - last
    ]
    assert len(quantizers) > 10
    for quantizer in quantizers:
        broken = _without(whole, quantizer)
        assert violations(broken, target) or missed_layers(broken, target), quantizer.name


def _without(model: onnx.ModelProto, quantizer: onnx.NodeProto) -> onnx.ModelProto:
    """A copy in which the readers of a pair read the float tensor in front of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pairs = {node.output[0] for node in copy.graph.node if node.input[:1] == quantizer.output[:1]}
    for node in copy.graph.node:
        node.input[:] = [quantizer.input[0] if name in pairs else name for name in node.input]
    return copy
