"""One forward as an op graph: recorded from inputs and traced without them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import InputError
from qdq.insertion.following import trace
from qdq.insertion.recording import record
from qdq.nn import QuantAdd, QuantMultiAdd
from qdq.targets.opgraph import OpGraph


class Net(nn.Module):
    """A net whose forward is given to it."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def kinds(graph: OpGraph | None) -> list[str]:
    assert graph is not None
    return [op.kind for op in graph.ops]


def wiring(graph: OpGraph | None) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Kinds and connections: every tensor is called by who makes it, "in" for nobody."""
    assert graph is not None
    index = {tensor: place for place, op in enumerate(graph.ops) for tensor in op.outputs}
    ops = [(op.kind, [index.get(tensor, "in") for tensor in op.inputs]) for op in graph.ops]
    return ops, [index.get(tensor, "in") for tensor in graph.outputs]


def hooks(model: nn.Module) -> list[int]:
    return [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    ]


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_a_chain_of_modules_is_their_names_and_kinds_in_order() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.ReLU6(), nn.Flatten()).eval()
    graph = record(model, X)
    assert [(op.name, op.kind) for op in graph.ops] == [
        ("0", "linear"),
        ("1", "relu"),
        ("2", "identity"),
        ("3", "relu6"),
        ("4", "reshape"),
    ]
    assert wiring(graph)[0] == [
        ("linear", ["in"]),
        ("relu", [0]),
        ("identity", [1]),
        ("relu6", [2]),
        ("reshape", [3]),
    ]
    assert wiring(graph)[1] == [4]


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        F.relu,
        torch.relu,
        Tensor.relu,
        Tensor.relu_,
        lambda x: F.relu(x, inplace=True),
    ],
)
def test_a_relu_is_one_relu_however_it_is_written(relu: Any) -> None:
    layers = {"act": relu} if isinstance(relu, nn.Module) else {}
    model = Net(lambda net, x: -relu(net.fc(x)), fc=nn.Linear(4, 4), **layers)
    assert wiring(record(model, X)) == (
        [("linear", ["in"]), ("relu", [0]), ("neg", [1])],
        [2],
    )


def test_functional_ops_are_named_by_the_module_they_run_in_and_counted() -> None:
    inner = Net(lambda net, x: F.relu(F.relu(x)))
    model = Net(lambda net, x: F.relu(net.inner(x)), inner=inner)
    assert [op.name for op in record(model, X).ops] == ["inner.relu_0", "inner.relu_1", "relu_0"]


@pytest.mark.parametrize(
    "add",
    [
        lambda a, b: a + b,
        torch.add,
        Tensor.add,
        Tensor.add_,
        lambda a, b: a.__iadd__(b),
    ],
)
def test_a_sum_is_one_add_however_it_is_written(add: Any) -> None:
    model = Net(lambda net, x: -add(net.a(x), net.b(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert wiring(record(model, X))[0] == [
        ("linear", ["in"]),
        ("linear", ["in"]),
        ("add", [0, 1]),
        ("neg", [2]),
    ]


def test_an_op_in_place_makes_a_new_tensor_of_the_same_object() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.fc(x)
        y += x
        y.mul_(2)
        return F.relu(y)

    graph = record(Net(run, fc=nn.Linear(4, 4)), X)
    assert wiring(graph) == (
        [("linear", ["in"]), ("add", [0, "in"]), ("mul", [1]), ("relu", [2])],
        [3],
    )


def test_what_happens_inside_a_known_module_is_not_noted_twice() -> None:
    class Loud(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.relu(super().forward(input))

    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Loud(4, 4)).eval()
    # a subclass is no known module: its inside is looked at
    assert kinds(record(model, X)) == ["linear", "batch_norm", "linear", "relu"]


@pytest.mark.parametrize("inputs", [1, 2])
def test_an_addition_module_is_one_op_with_all_its_inputs_in_order(inputs: int) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.fc(x)
        return net.add(x, y, x) if inputs == 2 else net.add(x, x, x)

    model = Net(run, fc=nn.Linear(4, 4), add=QuantMultiAdd(3))
    wanted = ["in", 0, "in"] if inputs == 2 else ["in", "in", "in"]
    assert wiring(record(model, X))[0][1] == ("add", wanted)
    assert wiring(trace(model))[0][1] == ("add", wanted)


def test_a_parameter_that_is_added_keeps_its_place_among_the_inputs() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.add(net.offset.weight, net.fc(x))

    model = Net(run, fc=nn.Linear(4, 4), add=QuantAdd(), offset=nn.Linear(4, 2))
    assert wiring(record(model, X))[0] == [("linear", ["in"]), ("add", ["in", 0])]
    assert wiring(trace(model))[0] == [("linear", ["in"]), ("add", ["in", 0])]


def test_a_module_called_twice_is_two_ops_of_one_name() -> None:
    model = Net(lambda net, x: net.fc(net.fc(x)), fc=nn.Linear(4, 4))
    for graph in (record(model, X), trace(model)):
        assert graph is not None
        assert graph.calls == {"fc": 2}


def test_a_module_under_two_names_goes_by_the_first() -> None:
    layer = nn.Linear(4, 4)
    model = Net(lambda net, x: net.second(x), first=layer, second=layer)
    assert [op.name for op in record(model, X).ops] == ["first"]


def test_ranks_are_told_by_the_data_and_unknown_without_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten()).eval()
    assert [op.rank for op in record(model, torch.zeros(1, 1, 2, 2)).ops] == [4, 2]
    traced = trace(model)
    assert traced is not None
    assert [op.rank for op in traced.ops] == [None, None]


def test_outputs_in_tuples_and_dicts_are_all_outputs() -> None:
    model = Net(lambda net, x: {"a": net.fc(x), "b": (F.relu(x), x)}, fc=nn.Linear(4, 4))
    assert wiring(record(model, X))[1] == [0, 1, "in"]
    assert wiring(trace(model))[1] == [0, 1, "in"]


def test_keyword_inputs_and_tuples_reach_the_model() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    for inputs in ((X, X + 1), {"b": X, "a": X}):
        graph = record(Two(), inputs)
        assert kinds(graph) == ["sub"]
        assert len(set(graph.ops[0].inputs)) == len({id(t) for t in _tensors(inputs)})


def _tensors(inputs: Any) -> list[Tensor]:
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


def test_asking_for_shapes_makes_no_op() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        assert x.dim() == 2
        return net.fc(x).reshape(x.shape[0], x.size(1))

    assert kinds(record(Net(run, fc=nn.Linear(4, 4)), X)) == ["linear", "reshape"]


def test_quantizers_without_a_range_pass_x_while_recording() -> None:
    model = Net(lambda net, x: net.add(net.fc(x), x), fc=nn.Linear(4, 4), add=QuantAdd())
    assert kinds(record(model, X)) == ["linear", "add"]
    observers = [each.observer for each in model.modules() if hasattr(each, "observer")]
    assert observers == [None] * 3


def test_the_model_keeps_no_hook_and_computes_as_before() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("mine"))
    before, kept = model(X), hooks(model)
    record(model, X)
    assert hooks(model) == kept
    assert torch.equal(model(X), before)
    assert calls == ["mine"] * 3


def test_the_model_keeps_no_hook_after_an_exception_either() -> None:
    def fail(net: Any, x: Tensor) -> Tensor:
        raise ValueError("no such way")

    model = Net(lambda net, x: net.inner(net.fc(x)), fc=nn.Linear(4, 4), inner=Net(fail))
    with pytest.raises(InputError, match="ValueError: no such way"):
        record(model, X)
    assert hooks(model) == [0, 0, 0]
    with torch.no_grad():  # and no mode is left behind that would look on
        assert F.relu(X).shape == X.shape


def test_recording_takes_no_gradients() -> None:
    seen: list[bool] = []
    model = Net(
        lambda net, x: (seen.append(torch.is_grad_enabled()), net.fc(x))[1], fc=nn.Linear(4, 4)
    )
    record(model, X.clone().requires_grad_())
    assert seen == [False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inputs_the_model_does_not_take_are_named_by_shape() -> None:
    with pytest.raises(InputError) as caught:
        record(nn.Linear(3, 3), X)
    assert caught.value.what.startswith("the model does not take inputs of shape (2, 4): Runtime")


# trace


def plain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (plain(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (2, 4)),
        (plain(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.MaxPool2d(2)), (1, 1, 6, 6)),
        (plain(plain(nn.Linear(4, 4), nn.Dropout()), plain(nn.Identity(), nn.Flatten())), (2, 4)),
        (nn.Conv2d(1, 2, 3).eval(), (1, 1, 6, 6)),
        (Net(lambda net, x: (F.relu(net.fc(x)), torch.cat([x, x], 1)), fc=nn.Linear(4, 4)), (2, 4)),
    ],
)
def test_a_traced_graph_is_wired_like_the_recorded_one(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    assert wiring(trace(model)) == wiring(record(model, x))
    modules = dict(model.named_modules())
    traced = trace(model)
    assert traced is not None
    named = [
        [op.name for op in graph.ops if op.name in modules] for graph in (record(model, x), traced)
    ]
    assert named[0] == named[1]


def test_a_traced_block_with_shapes_in_place_sums_and_functions_is_wired_like_the_recorded() -> (
    None
):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.r = nn.Conv2d(1, 4, 3), nn.ReLU()
            self.c, self.n = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.add, self.head = QuantAdd(), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(self.r(self.stem(x)), 2)
            y = self.n(self.c(x))
            y += x
            x = self.add(F.relu(y), x)
            return self.head(x.view(x.size(0), x.shape[1] * 4))

    model = Block().eval()
    assert wiring(trace(model)) == wiring(record(model, torch.randn(1, 1, 6, 6)))


def test_control_flow_on_data_cannot_be_traced_but_recorded() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.a(x) if x.sum() > 0 else net.b(x)

    model = Net(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert trace(model) is None
    assert [op.name for op in record(model, X + 1).ops if op.kind == "linear"] == ["a"]
    assert [op.name for op in record(model, X - 1).ops if op.kind == "linear"] == ["b"]


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    before = model(X)
    trace(model)
    assert hooks(model) == [0, 0, 0]
    assert torch.equal(model(X), before)
