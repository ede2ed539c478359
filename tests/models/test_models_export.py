"""Every network goes through torch.onnx at opset 13 and computes the same in onnxruntime."""

import io
from collections.abc import Callable

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.lstm import LstmLanguageModel
from models.mobilenetv2 import mobilenet_v2, mobilenet_v2_tf
from models.resnet import resnet18, resnet20, resnet50
from models.squeezenet import squeezenet1_1
from models.transformer import TransformerClassifier
from models.unet import unet
from models.vgg import vgg_small
from models.yolo import yolo

NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v2_tf": mobilenet_v2_tf,
    "squeezenet1_1": squeezenet1_1,
    "vgg_small": vgg_small,
    "yolo": lambda: yolo(num_classes=2),
    "unet": lambda: unet(width=4),
    "lstm": lambda: LstmLanguageModel(11, width=8),
    "transformer": lambda: TransformerClassifier(11, width=16),
    "transformer_torch": lambda: TransformerClassifier(11, width=16, torch_attention=True),
}
SHAPES = {
    "resnet50": (2, 3, 96, 96),
    "squeezenet1_1": (2, 3, 48, 48),
    "yolo": (2, 3, 64, 64),
    "lstm": (2, 5),
    "transformer": (2, 5),
    "transformer_torch": (2, 5),
}

pytestmark = [
    # F.pad becomes a slice with step -1, which the exporter will not fold, and says so.
    pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1:UserWarning"),
    # nn.LSTM and nn.MultiheadAttention check their inputs' shapes with an `if`.
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning"),
    # It fears for the batch size of an nn.LSTM; the second test runs another one.
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning"),
]


@pytest.mark.parametrize("name", NETS)
def test_a_net_computes_the_same_in_onnxruntime(name: str) -> None:
    torch.manual_seed(0)
    model = NETS[name]().eval()
    x = inputs(SHAPES.get(name, (2, 3, 32, 32)))
    fill_batch_norms(model, inputs((16, *x.shape[1:])))
    found = exported(model, x).run(None, {"input": x.numpy()})
    for expected, have in zip(outputs(model, x), found, strict=True):
        assert expected.std() > 1e-3  # else equality says little
        # Fifty random layers turn float32's own rounding into 4e-5 of the largest output.
        limit = 1e-4 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(torch.from_numpy(have), expected, atol=limit, rtol=0)


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_net_for_text_takes_another_length_in_onnxruntime(name: str) -> None:
    torch.manual_seed(0)
    model = NETS[name]().eval()
    session = exported(model, inputs((2, 5)), axes={0: "batch", 1: "length"})
    x = inputs((3, 9))
    (found,) = session.run(None, {"input": x.numpy()})
    (expected,) = outputs(model, x)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


def inputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape) if len(shape) == 4 else torch.randint(0, 11, shape)


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    result = model(x)
    return (result,) if isinstance(result, Tensor) else result


@torch.no_grad()
def fill_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Give BatchNorms the statistics of their inputs, or signals fade on the way through."""
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    if norms:
        model(images)
    for norm in norms:
        norm.eval()


def exported(
    model: nn.Module, x: Tensor, axes: dict[int, str] | None = None
) -> onnxruntime.InferenceSession:
    buffer = io.BytesIO()
    torch.onnx.export(
        model, (x,), buffer, dynamo=False, opset_version=13, input_names=["input"],
        dynamic_axes={"input": axes} if axes else None,
    )  # fmt: skip
    graph = onnx.load_from_string(buffer.getvalue())
    assert graph.opset_import[0].version == 13
    return onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
