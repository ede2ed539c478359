"""An ONNX graph and the torch forward it was exported from are one op graph to placement."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.export.tracing import to_onnx
from qdq.graph.opgraphs import kind_of, op_graph, products_of
from qdq.graph.quantizing.cleaning import cleaned
from qdq.graph.quantizing.selection import select
from qdq.targets import get
from qdq.targets.placement import place
from tests.graph.quantizing.float_nets import FloatNet


class Residual(nn.Module):
    """Convolutions, BatchNorms, a residual addition, a concatenation, pools, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6())
        self.inner = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.side = nn.Conv2d(16, 8, 1)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        total = torch.relu(self.inner(x) + x)
        joined = torch.cat([total, torch.relu(self.side(x))], 1)
        x = self.pool(torch.sigmoid(self.up(joined)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Gates(nn.Module):
    """Products and sums that are sites, and some that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        gated = a * b
        swish = gated * torch.sigmoid(gated)
        shifted = swish + 3.0
        return F.interpolate(shifted, scale_factor=2.0, mode="bilinear") + F.interpolate(
            self.c(shifted), scale_factor=2.0
        )


class Encoder(nn.Module):
    """Linear layers on three axes, an attention, layer norms, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        scores = self.q(x) @ self.k(x).transpose(1, 2) * 0.25
        return self.norm(x + self.out(scores.softmax(-1) @ self.v(x)))


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))),
    "gates": (Gates, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))),
    "encoder": (Encoder, torch.arange(12).reshape(2, 6)),
}


def of_file(model: onnx.ModelProto, target: str) -> list[tuple[str, str]]:
    """(kind, role) of every site that is on."""
    graph, _ = cleaned(model, "float.onnx")
    ops, products = op_graph(graph), products_of(graph)
    placed = place(select(graph, ops, products, ()).sites, ops, get(target))
    kinds = {op.name: op.kind for op in ops.ops}
    return sorted(_sites(kinds, [each.name for each in placed if each.action == "quantize"]))


def of_forward(net: nn.Module, example: Tensor, target: str) -> list[tuple[str, str]]:
    """The same of the torch model."""
    report = qdq.insert(net, example, target=target)
    modules = dict(net.named_modules())
    names = [each.name for each in report.select("quantize")]
    owners = {name.rpartition(".")[0] for name in names}
    kinds = {
        name: getattr(modules.get(name), "kind", name.rpartition(".")[2].rpartition("_")[0])
        for name in owners
    }
    return sorted(_sites(kinds, names))


def _sites(kinds: dict[str, str], names: list[str]) -> list[tuple[str, str]]:
    pairs = (name.rpartition(".")[::2] for name in names)
    return [
        (kinds[owner], "input" if kinds[owner] == "avg_pool" else role) for owner, role in pairs
    ]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("name", NETS)
def test_a_file_has_the_sites_of_the_forward_it_was_exported_from(name: str, target: str) -> None:
    torch.manual_seed(0)
    build, example = NETS[name]
    net = build().eval()
    model = to_onnx(net, example)
    assert of_file(model, target) == of_forward(net, example, target)


def kinds_of(net: FloatNet, *outputs: str) -> list[str]:
    graph, _ = cleaned(net.model(*outputs), "float.onnx")
    return [op.kind for op in op_graph(graph).ops]


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0, None, "relu"), (0, 6, "relu6"), (-1, 1, "clamp"), (None, 6, "clamp"), (0, 3, "clamp")],
)
def test_a_clip_is_the_clamp_that_its_ends_make_it(
    low: float | None, high: float | None, kind: str
) -> None:
    net = FloatNet("n", 4)
    ends = ["" if each is None else net.hold(np.float32(each)) for each in (low, high)]
    assert kinds_of(net, net.op("Clip", "x", *ends)) == [kind]


def test_a_layer_is_one_op_with_its_bias_and_arithmetic_on_sizes_none() -> None:
    net = FloatNet("n", 3, 4)
    product = net.op("MatMul", "x", net.hold(net.draw(4, 6)))
    biased = net.op("Add", product, net.hold(net.draw(6)))
    shape = net.op("Mul", net.op("Shape", biased), net.hold(np.array([1, 2, 1])))
    graph, _ = cleaned(net.model(net.op("Expand", biased, shape)), "float.onnx")
    ops = op_graph(graph)
    assert [(op.kind, op.weight) for op in ops.ops if op.kind != "integer_mul"] == [
        ("linear", (6, 4)),
        ("expand", ()),
    ]
    assert ops.ops[0].outputs == ops.ops[-1].inputs


def test_lengths_are_told_where_they_are_known_with_one_row_for_any_number() -> None:
    net = FloatNet("n", 3, "height", 5)
    graph, _ = cleaned(net.model(net.op("Relu", net.op("GlobalAveragePool", "x"))), "float.onnx")
    ops = op_graph(graph)
    assert ops.inputs[0] not in ops.shapes
    assert ops.shapes[ops.ops[0].outputs[0]] == (1, 3, 1, 1)


def test_a_branch_reads_what_its_nodes_read() -> None:
    net = FloatNet("n", 4)
    outer = net.op("Neg", "x")
    branches = {}
    for name in ("then_branch", "else_branch"):
        result = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)
        node = helper.make_node("Abs", [outer], [f"{name}.y"])
        branches[name] = helper.make_graph([node], name, [], [result])
    condition = net.op("Greater", net.op("ReduceSum", "x", keepdims=0), net.hold(np.float32(0)))
    graph, _ = cleaned(net.model(net.op("If", condition, **branches)), "float.onnx")
    ops = {op.kind: op for op in op_graph(graph).ops}
    assert ops["neg"].outputs[0] in ops["if"].inputs


def test_a_foreign_operator_keeps_its_name_whole() -> None:
    node = gs.Node("Relu", "r", {}, [gs.Variable("x")], [gs.Variable("y")], domain="far.away")
    assert kind_of(node) == "far.away.Relu"
