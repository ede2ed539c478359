"""Call sites inside what torch compiles and exports: as in eager mode, to the bit."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from callsite_nets import IMAGES, Callsite, ResidualBlock, ResidualNet, prepared
from torch import Tensor, nn
from torch.nn import functional as F

import qdq


@pytest.fixture(autouse=True)
def own_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    while torch._C._len_torch_function_stack():
        torch.overrides._pop_mode()


def conv() -> nn.Conv2d:
    return nn.Conv2d(2, 2, 3, padding=1)


def joined(net: Any, x: Tensor) -> Tensor:
    return torch.cat([F.relu(net.a(x)), F.relu(net.b(x))], 1)


def gated(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.b(y * torch.sigmoid(F.adaptive_avg_pool2d(F.relu(y + x), 1)))


def functional(net: Any, x: Tensor) -> Tensor:
    y = F.relu(F.conv2d(x, net.a.weight, net.a.bias, padding=1))
    return F.linear(F.avg_pool2d(y, 5).flatten(1), net.table) @ net.table


def attending(net: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (net.a, net.b, net.a2))
    return F.scaled_dot_product_attention(q, k, v) @ k.mT @ q


def functional_net() -> Callsite:
    net = Callsite(functional, a=conv())
    net.table = nn.Parameter(torch.randn(2, 2))
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "blocks": lambda: nn.Sequential(ResidualBlock(), nn.Conv2d(2, 2, 1), ResidualBlock()),
    "at the root": ResidualNet,
    "concat": lambda: nn.Sequential(Callsite(joined, a=conv(), b=conv()), nn.Conv2d(4, 2, 1)),
    "gate and pool": lambda: Callsite(gated, a=conv(), b=conv()),
    "functional": functional_net,
    "attention": lambda: nn.Sequential(Callsite(attending, a=conv(), b=conv(), a2=conv())),
}


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", NETS)
def test_a_compiled_model_computes_what_it_does_eagerly(name: str, target: str) -> None:
    model = prepared(NETS[name](), target)
    expected = model(IMAGES)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(IMAGES), expected)
        with qdq.disable_quantization(model):
            assert not torch.equal(compiled(IMAGES), expected)
    assert torch.equal(model(IMAGES), expected)


@pytest.mark.parametrize("name", NETS)
def test_a_program_exported_by_torch_computes_what_the_model_does(name: str) -> None:
    model = prepared(NETS[name]())
    program = torch.export.export(model, (IMAGES,), strict=False)
    assert torch.equal(program.module()(IMAGES), model(IMAGES))
