"""Tiny nets that between them hold every shape of graph an export meets."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate
from qdq.insertion.replacing import insert
from qdq.nn import QuantAdd, QuantMultiAdd


class Functional(nn.Module):
    """A net whose forward is a function of itself."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.run(self, *args, **kwargs)


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5)
    )


def linear_without_bias() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24, bias=False), nn.ReLU(), nn.Linear(24, 5, bias=False))


def max_pool_chain() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def batch_norm_chain() -> nn.Module:
    return nn.Sequential(
        conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.BatchNorm2d(8),
        nn.ReLU6(), conv(8, 4),
    )  # fmt: skip


def average_pool_chain() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.AvgPool2d(2), conv(8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 8, groups=8), nn.ReLU(), conv(8, 4, 1), nn.ReLU(), conv(4, 4)
    )


def conv_last() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4))


def single_conv() -> nn.Module:
    return conv(3, 4)


def identity_skip() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        y = net.n2(net.c2(F.relu(net.c1(x))))
        return net.head(torch.flatten(F.relu(net.add(y, x)), 1))

    return Functional(
        run, stem=conv(3, 8), c1=conv(8, 8), c2=conv(8, 8), n2=nn.BatchNorm2d(8),
        add=QuantAdd(), head=nn.Linear(512, 5),
    )  # fmt: skip


def downsample_skip() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(net.stem(x)), 2)
        y = net.c2(F.relu(net.c1(x)))
        x = F.relu(net.add(y, net.down(x)))
        return net.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return Functional(
        run, stem=conv(3, 8), c1=conv(8, 8, stride=2), c2=conv(8, 8), add=QuantAdd(),
        down=nn.Conv2d(8, 8, 1, stride=2), head=nn.Linear(8, 5),
    )  # fmt: skip


def three_way_add(shared: bool) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.last(F.relu(net.add(x, net.c1(x), net.c2(x))))

    return Functional(
        run, stem=conv(3, 8), c1=conv(8, 8), c2=conv(8, 8, 1),
        add=QuantMultiAdd(3, shared=shared), last=conv(8, 4),
    )  # fmt: skip


def doubled() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.last(net.add(x, x))

    return Functional(run, stem=conv(3, 8), add=QuantAdd(shared=True), last=conv(8, 4))


def linear_on_sequences() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))


def pool_with_two_readers() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(net.stem(x)), 2)
        return net.last(F.relu(net.add(net.c1(x), x)))

    return Functional(run, stem=conv(3, 8), c1=conv(8, 8), add=QuantAdd(), last=conv(8, 4))


def two_branches() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.left(x) * torch.sigmoid(net.right(x))

    return Functional(run, stem=conv(3, 8), left=conv(8, 4), right=conv(8, 4, 1))


class TwoInputs(nn.Module):
    """A picture and a row of a table, also by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.see = conv(3, 4), nn.Linear(256, 8)
        self.read, self.head = nn.Linear(12, 8), nn.Linear(16, 5)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        seen = torch.flatten(F.relu(self.look(image)), 1)
        return self.head(torch.cat([self.see(seen), F.relu(self.read(table))], 1))


def two_outputs() -> nn.Module:
    def run(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(net.stem(x)), 2)
        return x, net.last(x)

    return Functional(run, stem=conv(3, 8), last=conv(8, 4))


IMAGE, TABLE, SEQUENCE = (3, 8, 8), (12,), (6, 12)
Shapes = tuple[int, ...] | tuple[tuple[int, ...], ...] | dict[str, tuple[int, ...]]

# name -> (net, shapes of its inputs without the batch)
NETS: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "mlp": (mlp, TABLE),
    "linear_without_bias": (linear_without_bias, TABLE),
    "linear_on_sequences": (linear_on_sequences, SEQUENCE),
    "max_pool_chain": (max_pool_chain, IMAGE),
    "batch_norm_chain": (batch_norm_chain, IMAGE),
    "average_pool_chain": (average_pool_chain, IMAGE),
    "depthwise": (depthwise, IMAGE),
    "conv_last": (conv_last, IMAGE),
    "single_conv": (single_conv, IMAGE),
    "identity_skip": (identity_skip, IMAGE),
    "downsample_skip": (downsample_skip, IMAGE),
    "three_way_add": (lambda: three_way_add(False), IMAGE),
    "three_way_shared_add": (lambda: three_way_add(True), IMAGE),
    "doubled": (doubled, IMAGE),
    "pool_with_two_readers": (pool_with_two_readers, IMAGE),
    "two_branches": (two_branches, IMAGE),
    "two_inputs": (TwoInputs, (IMAGE, TABLE)),
    "keyword_inputs": (TwoInputs, {"table": TABLE, "image": IMAGE}),
    "two_outputs": (two_outputs, IMAGE),
}


def example(name: str, batch: int = 4, seed: int = 1) -> Any:
    """Inputs of a net: a tensor, tuple or dict of standard normal values."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: draw(each) for key, each in shape.items()}
        if isinstance(shape[0], tuple):
            return tuple(draw(each) for each in shape)
        return torch.randn(batch, *shape, generator=generator)

    return draw(NETS[name][1])


def built(name: str) -> nn.Module:
    """The float net with fixed weights, its channels of very different size."""
    torch.manual_seed(0)
    model = NETS[name][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            size = torch.rand(len(module.weight)) * 1.5 + 0.5
            module.weight.data *= size.view(-1, *[1] * (module.weight.dim() - 1))
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(-1.5, 1.5)
            module.bias.data.normal_()
    return model


def prepared(name: str, target: str = "onnxruntime", **options: Any) -> nn.Module:
    """Inserted for `target` and calibrated by max."""
    model = built(name)
    insert(model, example(name), target=target, **options)
    batches = [(example(name, 8, seed),) for seed in (2, 3)]
    calibrate(model, batches, method="max", progress=False)
    return model


def outputs(model: nn.Module, inputs: Any) -> list[Any]:
    """What the model makes of inputs, as a list of numpy arrays."""
    with torch.no_grad():
        if isinstance(inputs, dict):
            result = model(**inputs)
        else:
            result = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return [each.numpy() for each in (result if isinstance(result, tuple) else (result,))]


def fed(session: Any, inputs: Any) -> list[Any]:
    """What an onnxruntime session makes of inputs."""
    names = [each.name for each in session.get_inputs()]
    if isinstance(inputs, dict):
        feed = {key: value.numpy() for key, value in inputs.items()}
    else:
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return list(session.run(None, feed))
