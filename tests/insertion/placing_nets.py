"""Tiny nets that make calls of every kind, and which of their sites each target switches on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.targets import get

# However small its layers are.
TARGETS = {name: get(name, skip_small=False) for name in ("tensorrt", "onnxruntime")}


class Net(nn.Module):
    """A net whose forward is a function of itself."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_parameter(name, nn.Parameter(part))
            else:
                self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def operands(*layers: str) -> set[str]:
    return {f"{layer}.{role}" for layer in layers for role in ("input", "weight")}


def inputs(call: str, count: int = 2) -> set[str]:
    return {f"{call}.input_{index}" for index in range(count)}


@dataclass(frozen=True)
class Case:
    """A net and what is expected of it.

    Attributes:
        build: makes the float net.
        shapes: of its inputs, with the batch.
        both: sites that are on for either target.
        tensorrt: those on for TensorRT alone.
        onnxruntime: those on for onnxruntime alone.
        left: calls that are no sites.
    """

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    both: set[str]
    tensorrt: frozenset[str] = frozenset()
    onnxruntime: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()

    def on(self, target: str) -> set[str]:
        """The sites that `target` switches on."""
        return self.both | (self.tensorrt if target == "tensorrt" else self.onnxruntime)

    def example(self, seed: int = 1) -> tuple[Tensor, ...]:
        """Standard normal inputs."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(*shape, generator=generator) for shape in self.shapes)

    def prepared(self, target: str) -> nn.Module:
        """Inserted for `target` and calibrated by max."""
        torch.manual_seed(0)
        model = self.build().eval()
        qdq.insert(model, self.example(), target=TARGETS[target])
        batches = [(self.example(seed),) for seed in (1, 2)]
        qdq.calibrate(model, batches, method="max", progress=False)
        return model


def conv(inputs: int = 8, outputs: int = 8, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def squeeze_excite() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        gate = F.relu(net.down(F.adaptive_avg_pool2d(x, 1)))
        return net.head(x * torch.sigmoid(net.up(gate)))

    return Net(run, stem=conv(3), down=conv(8, 4, 1), up=conv(4, 8, 1), head=conv(8, 4))


def joined() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(torch.cat([F.relu(net.left(x)), F.relu(net.right(x))], 1))

    return Net(run, left=conv(3), right=conv(3, 8, 1), head=conv(16, 4))


def silu() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(x * torch.sigmoid(x))

    return Net(run, stem=conv(3), head=conv(8, 4))


def masked() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(net.stem(x) * (x[:, :1] > 0))

    return Net(run, stem=conv(3), head=conv(8, 4))


def layer_norm() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
        return net.second(x * net.gain + net.shift)

    return Net(
        run, first=nn.Linear(12, 16), second=nn.Linear(16, 6), gain=torch.rand(16),
        shift=torch.randn(16),
    )  # fmt: skip


def attention() -> nn.Module:
    def run(net: Any, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 6)).transpose(1, 2) for layer in net.three)
        scores = q @ k.transpose(-2, -1) / 6**0.5
        mixed = torch.softmax(scores + mask[:, None, None], -1) @ v
        return net.out(mixed.transpose(1, 2).flatten(2))

    three = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
    return Net(run, three=three, out=nn.Linear(12, 5))


def functional() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, net.w, net.b, padding=1))
        x = F.avg_pool2d(F.relu(F.conv2d(x, net.w2)), 2)
        return F.linear(x.flatten(1), net.table, net.offset) @ net.last

    return Net(
        run, w=torch.randn(8, 3, 3, 3), b=torch.randn(8), w2=torch.randn(8, 8, 3, 3),
        table=torch.randn(16, 72), offset=torch.randn(16), last=torch.randn(16, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        y = net.c2(F.relu(net.c1(x)))
        y += x
        return net.head(F.relu(y))

    return Net(run, stem=conv(3), c1=conv(), c2=conv(), head=conv(8, 4))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def masked_encoder() -> nn.Module:
    def run(net: Any, x: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
        return net.layers(x, mask[0] > 1, padding > 1, is_causal=False)

    return Net(run, layers=encoder())


def cross_attention() -> nn.Module:
    def run(net: Any, x: Tensor, y: Tensor) -> Tensor:
        mixed, weights = net.look(net.ask(x), y, y)
        return net.out(mixed) + weights.mean()

    look = nn.MultiheadAttention(12, 2, kdim=6, vdim=6, batch_first=True)
    return Net(run, ask=nn.Linear(12, 12), look=look, out=nn.Linear(12, 5))


def shuffling() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        for branch in (net.first, net.second):
            left, right = x.chunk(2, 1)
            x = torch.cat([left, F.relu(branch(right))], 1)
            x = x.unflatten(1, (2, 4)).transpose(1, 2).reshape(x.shape)
        return net.head(x.mean((2, 3)))

    return Net(run, stem=conv(3), first=conv(4, 4), second=conv(4, 4), head=nn.Linear(8, 5))


def upsampling() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        y = F.relu(net.down(F.relu(net.stem(x))))
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        return net.head(y)

    return Net(run, stem=conv(3), down=nn.Conv2d(8, 8, 2, 2), head=conv(8, 4))


def einsums() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        heads = torch.einsum("bnc,chd->bnhd", F.relu(net.first(x)), net.table)
        scores = torch.einsum("bqhd,bkhd->bhqk", heads, heads.flip(1))
        return net.last(scores.flatten(1))

    return Net(run, first=nn.Linear(12, 16), table=torch.randn(16, 2, 6), last=nn.Linear(72, 5))


IMAGE, ROWS = ((4, 3, 8, 8),), ((3, 6, 12),)
ENCODER = [
    f"layers.{index}.{call}"
    for index in (0, 1)
    for call in ("self_attn.linear_0", "self_attn.linear_1", "linear1", "linear2")
]

CASES: dict[str, Case] = {
    "squeeze and excite": Case(
        squeeze_excite,
        IMAGE,
        operands("stem", "down", "up", "head") | {"avg_pool_0.input_0"} | inputs("mul_0"),
        onnxruntime=frozenset({"up.output", "head.output"}),
    ),
    "concat": Case(
        joined,
        IMAGE,
        operands("left", "right", "head"),
        onnxruntime=frozenset(inputs("concat_0") | {"head.output"}),
    ),
    "SiLU": Case(
        silu,
        IMAGE,
        operands("stem", "head"),
        onnxruntime=frozenset({"stem.output", "head.output"}),
        left=frozenset({"mul_0"}),
    ),
    "mask": Case(
        masked,
        IMAGE,
        operands("stem", "head"),
        onnxruntime=frozenset({"stem.output", "head.output"}),
        left=frozenset({"mul_0"}),
    ),
    "LayerNorm": Case(
        layer_norm,
        ROWS,
        operands("first", "second"),
        left=frozenset({"mul_0", "mul_1", "mul_2", "add_0", "add_1"}),
    ),
    "attention": Case(
        attention,
        (*ROWS, (3, 6)),
        operands("three.0", "three.1", "three.2", "out"),
        left=frozenset({"add_0"}),
    ),
    "functional": Case(
        functional,
        IMAGE,
        operands("conv_0", "conv_1", "linear_0", "matmul_0") | {"avg_pool_0.input_0"},
    ),
    "residual": Case(
        residual,
        IMAGE,
        operands("stem", "c1", "c2", "head") | {"add_0.input_1"},
        onnxruntime=frozenset({"add_0.input_0", "head.output"}),
    ),
    "channel shuffle": Case(
        shuffling,
        IMAGE,
        operands("stem", "first", "second", "head"),
        onnxruntime=frozenset(
            {"stem.output", "concat_0.output", "concat_1.output"}
            | inputs("concat_0")
            | inputs("concat_1")
        ),
        left=frozenset({"mean_0"}),
    ),
    "bilinear": Case(
        upsampling,
        IMAGE,
        operands("stem", "down", "head"),
        tensorrt=frozenset({"resize_0.input_0"}),
        onnxruntime=frozenset({"down.output", "head.output"}),
    ),
    "einsum": Case(
        einsums,
        ROWS,
        operands("first", "einsum_0", "last"),
        tensorrt=frozenset(inputs("einsum_1")),
    ),
    "encoder": Case(encoder, ROWS, operands(*ENCODER)),
    "encoder with masks": Case(
        masked_encoder,
        (*ROWS, (3, 6, 6), (3, 6)),
        operands(*(f"layers.{name}" for name in ENCODER)),
    ),
    "cross attention": Case(
        cross_attention,
        (*ROWS, (3, 5, 6)),
        operands("ask", "out", *(f"look.linear_{index}" for index in range(4))),
    ),
}
