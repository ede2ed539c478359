"""insert: what becomes quantized and what stays, in place, all of it or nothing."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import CalibrationError, InputError, PolicyError, RegistryError, StepError
from qdq.insertion.fusing import fuse
from qdq.insertion.placing import insertion_of
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn import QuantAdd, QuantConv2d, QuantLinear, TensorQuantizer
from qdq.nn.twins import TWINS


class Louder(nn.Linear):
    """A subclass: it may compute anything."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Block(nn.Module):
    """A residual block with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.add = nn.ReLU(), QuantAdd()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.add(self.norm(self.conv(x)), x))


class Net(nn.Module):
    """Every kind of thing insert meets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(Block(), Block())
        self.neck = Louder(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(F.relu(self.stem(x))).mean((2, 3))
        return self.head(self.neck(x))


X = torch.linspace(-1, 1, 72).reshape(2, 1, 6, 6)


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.uniform_(0.5, 2.0)
            norm.running_mean.normal_()
    return model.eval()


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def quantized(model: nn.Module) -> set[str]:
    """Names of the layers that became quantized ones."""
    kinds = (QuantConv2d, QuantLinear)
    return {name for name, module in model.named_modules() if type(module) in kinds}


ALL = {"stem", "body.0.conv", "body.1.conv", "head"}
CALLS = {"mean_0", "neck.linear_0", "neck.mul_0"}


def test_exact_types_are_replaced_and_subclasses_stay_with_the_reason() -> None:
    model = net()
    report = insert(model, X)
    assert quantized(model) == ALL
    assert type(model.neck) is Louder
    left = {row.name: row.why for row in report.select("skip")}
    assert left.pop("mean_0").startswith("no runtime has an integer kernel of a mean")
    assert left == {
        "neck": "a subclass of Linear, which may compute something else: its calls are sites",
        "neck.mul_0": "one side is a constant (T23)",
    }


def test_what_a_subclass_calls_is_quantized_where_it_calls_it() -> None:
    model = net()
    insert(model, X)
    call = {site for site in quantizers(model) if site.startswith("neck.")}
    assert call == {"neck.linear_0.input", "neck.linear_0.weight", "neck.linear_0.output"}


def test_batch_norms_are_folded_and_the_report_says_so() -> None:
    report = insert(net(), X)
    assert {row.name for row in report.select("fold")} == {"body.0.norm", "body.1.norm"}


def test_there_is_a_decision_for_every_site() -> None:
    model = net()
    report = insert(model, X, target="onnxruntime")
    sites = {row.name: row.action for row in (*report.select("quantize"), *report.select("off"))}
    assert sites.keys() == quantizers(model).keys()
    assert {site for site, action in sites.items() if action == "quantize"} == {
        site for site, quantizer in quantizers(model).items() if quantizer.on
    }
    assert report.target == "onnxruntime"
    counts = report.to_dict()["counts"]
    on, off = len(report.select("quantize")), len(report.select("off"))
    assert counts == {"quantize": on, "off": off, "fold": 2, "skip": 3}


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("head", {"head"}),
        ("body", {"body.0.conv", "body.1.conv"}),
        ("body.1", {"body.1.conv"}),
        ("body.*.conv", {"body.0.conv", "body.1.conv"}),
        ("*conv", {"body.0.conv", "body.1.conv"}),
        (r"re:^body\.0\.", {"body.0.conv"}),
        (nn.Conv2d, {"stem", "body.0.conv", "body.1.conv"}),
        (Block, {"body.0.conv", "body.1.conv"}),
        (lambda name, module: getattr(module, "in_channels", 0) == 1, {"stem"}),
        (["stem", nn.Linear], {"stem", "head"}),
        (("stem", "re:head$"), {"stem", "head"}),
    ],
)
def test_patterns_say_what_to_leave_out_or_to_take_alone(pattern: Any, left: set[str]) -> None:
    model = net()
    report = insert(model, X, ignore=pattern)
    assert quantized(model) == ALL - left
    assert {row.name for row in report.select("skip")} - CALLS == left | {"neck"}
    model = net()
    report = insert(model, X, only=pattern)
    assert quantized(model) == left
    assert {row.name for row in report.select("skip")} - CALLS == (ALL - left) | {"neck"}


def test_ignore_wins_over_only_and_each_layer_left_says_which() -> None:
    model = net()
    report = insert(model, X, only="body", ignore="body.1")
    assert quantized(model) == {"body.0.conv"}
    why = {row.name: row.why for row in report.select("skip")}
    assert why["body.1.conv"] == "ignored by 'body.1'"
    assert why["stem"] == why["neck"] == "only= does not name it"


@pytest.mark.parametrize("option", ["ignore", "only"])
def test_a_pattern_that_fits_nothing_is_an_error(option: str) -> None:
    model = mlp()
    with pytest.raises(PolicyError) as caught:
        insert(model, X.reshape(-1, 4), **{option: ["0", "layer3.*"]})
    assert str(caught.value) == (
        f"{option} pattern 'layer3.*' fits nothing\n  fix: mend or remove it; there is: 0, 1, 2"
    )
    assert quantized(model) == set()


@pytest.mark.parametrize("options", [{"ignore": "*"}, {"only": nn.ReLU}, {"ignore": nn.Module}])
def test_patterns_that_leave_nothing_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as caught:
        insert(mlp(), X.reshape(-1, 4), **options)
    known = ", ".join(sorted(float_class.__name__ for float_class in TWINS))
    assert "Conv2d, " in known
    assert str(caught.value) == (
        "nothing is left to quantize\n"
        "  at:  Sequential\n"
        f"  fix: qdq replaces layers of exactly these types: {known}; see ignore= and only="
    )


def test_a_model_of_additions_alone_may_be_inserted() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = QuantAdd()

        def forward(self, x: Tensor) -> Tensor:
            return self.add(x, x)

    report = insert(Sum().eval(), X)
    assert {row.name for row in report.rows} == {"add.input_0", "add.input_1", "add.output"}


def test_a_second_insert_is_refused() -> None:
    model = mlp()
    insert(model)
    before = dict(quantizers(model))
    with pytest.raises(StepError) as caught:
        insert(model)
    assert str(caught.value) == (
        "quantizers were inserted into this model already\n"
        "  at:  Sequential\n"
        "  fix: insert into a fresh float model, or use qdq.retarget for another target"
    )
    assert quantizers(model) == before


def test_training_mode_is_refused() -> None:
    model = mlp()
    model[2].train()
    with pytest.raises(StepError) as caught:
        insert(model)
    assert str(caught.value) == (
        "insert needs the model in eval mode, and it is in training mode\n"
        "  at:  2\n"
        "  fix: call model.eval() first"
    )


def test_an_unknown_target_is_refused_before_anything_changes() -> None:
    model = mlp()
    with pytest.raises(RegistryError, match="no target 'trt'"):
        insert(model, target="trt")
    assert quantized(model) == set()


@pytest.mark.parametrize("example", [X.reshape(-1, 4), None])
def test_layers_called_twice_or_never_stay_float(example: Tensor | None) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never, self.once = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.once(self.twice(F.relu(self.twice(x))))

    model = Twice().eval()
    report = insert(model, example)
    assert quantized(model) == {"once"}
    assert {row.name: row.why for row in report.select("skip")} == {
        "twice": "called 2 times in one forward, and one range would have to serve all",
        "never": "the recorded forward never calls it",
    }


@pytest.mark.parametrize("example", [torch.zeros(1, 1, 4, 4), None])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_model_itself_may_be_a_layer(example: Tensor | None, target: str) -> None:
    model = nn.Conv2d(1, 2, 3).eval()
    report = insert(model, example, target=target)
    assert type(model) is QuantConv2d
    assert set(quantizers(model)) == {"input", "weight", "output"}
    on = {row.name for row in report.select("quantize")}
    assert on == {"input", "weight"} | ({"output"} if target == "onnxruntime" else set())


def test_parameters_keep_their_names_values_and_identity() -> None:
    model = net()
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if "norm" not in name
    }
    stem = model.stem.weight.clone()
    insert(model, X)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(model.get_parameter(name) is each for name, each in parameters.items())
    assert torch.equal(model.stem.weight, stem)


def test_modules_keep_their_identity_order_and_hooks() -> None:
    model = mlp()
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("after"))
    model[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    layers = list(model)
    insert(model)
    disable_quantization(model)
    model(torch.zeros(1, 4))
    assert seen == ["before", "after"]
    assert len(model) == 3
    assert all(now is then for now, then in zip(model, layers, strict=True))
    assert isinstance(model[0], nn.Linear)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_switched_off_the_model_computes_the_same_bits_as_before(target: str) -> None:
    model = net()
    folded = copy.deepcopy(model)
    fuse(folded, example_inputs=X)
    insert(model, X, target=target)
    disable_quantization(model)
    for switched in folded.body:
        switched.add = _Plus()
    assert torch.equal(model(X), folded(X))


class _Plus(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def test_norms_are_folded_and_the_model_computes_what_it_did() -> None:
    model = net()
    with torch.no_grad():
        for block in model.body:
            block.add = _Plus()
        want = model(X)
        for block in model.body:
            block.add = QuantAdd().eval()
        insert(model, X)
        disable_quantization(model)
        torch.testing.assert_close(model(X), want)


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_an_inserted_model_is_whole_and_its_own(remake: Callable[[Any], Any]) -> None:
    model = mlp()
    insert(model, target="onnxruntime")
    for site, quantizer in quantizers(model).items():
        if not site.endswith("weight"):
            quantizer.set_range(-1.0, 1.0)
    x = torch.randn(3, 4)
    copied = remake(model)
    assert torch.equal(copied(x), model(x))
    assert insertion_of(copied) == insertion_of(model)
    disable_quantization(copied)
    assert not torch.equal(copied(x), model(x))
    assert all(quantizer.enabled for quantizer in quantizers(model).values())


def test_an_inserted_model_asks_for_calibration_by_the_name_of_the_site() -> None:
    model = mlp()
    insert(model)
    with pytest.raises(CalibrationError, match="this quantizer has no range yet") as caught:
        model(torch.zeros(1, 4))
    assert caught.value.at == "0.input"


def test_inserted_layers_are_in_eval_mode() -> None:
    model = net()
    insert(model, X)
    assert not any(module.training for module in model.modules())


def guarded(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return run(self, x)

    return Guarded().eval()


def test_a_forward_nobody_can_follow_is_quantized_for_tensorrt_and_its_norms_stay() -> None:
    model = guarded(lambda net, x: net.norm(net.a(x)) if x.sum() < 1e9 else x)
    report = insert(model)
    assert insertion_of(model).graph is None
    why = {row.name: row.why for row in report.rows}
    assert why["norm"] == "not folded: torch.fx cannot follow this model's forward"
    assert why["a.output"] == "no forward was recorded: inputs and weights only"
    assert {row.name for row in report.select("quantize")} == {"a.input", "a.weight"}


def test_a_forward_nobody_can_follow_is_refused_for_onnxruntime_and_nothing_changes() -> None:
    model = guarded(lambda net, x: net.norm(net.a(x)) if x.sum() < 1e9 else x)
    with pytest.raises(StepError) as caught:
        insert(model, target="onnxruntime")
    assert str(caught.value) == (
        "target 'onnxruntime' must know who reads what, and torch.fx cannot follow this model's "
        "forward\n"
        "  at:  Guarded\n"
        "  fix: pass example_inputs to qdq.insert, so that one forward can be recorded"
    )
    assert quantized(model) == set()
    with pytest.raises(StepError, match="nothing was inserted"):
        insertion_of(model)
    insert(model, X, target="onnxruntime")
    assert quantized(model) == {"a"}


def test_inputs_the_model_does_not_take_change_nothing() -> None:
    model = net()
    before = everything(model)
    with pytest.raises(InputError, match=r"does not take inputs of shape \(1, 7\)"):
        insert(model, torch.zeros(1, 7))
    assert everything(model) == before


def everything(model: nn.Module) -> list[Any]:
    """Classes, attributes, values and identities of all of a model."""
    return [
        (
            name,
            id(module),
            type(module),
            sorted(vars(module)),
            {
                key: (id(each), each.tolist())
                for key, each in module.named_parameters(recurse=False)
            },
            {key: each.tolist() for key, each in module.named_buffers(recurse=False)},
            [
                (module.spec, module.site, module.active, module.enabled, module.limits)
                if isinstance(module, TensorQuantizer)
                else None
            ],
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_at_any_layer_undoes_them_all(
    monkeypatch: pytest.MonkeyPatch, failing: int, error: type[BaseException]
) -> None:
    model, calls = net(), []
    before = everything(model)
    real = QuantConv2d.add_quantizers

    def fail(self: Any, *args: Any) -> None:
        calls.append(self)
        real(self, *args)
        if len(calls) == failing:
            raise error("stop")

    monkeypatch.setattr("qdq.nn.weighted.QuantWeighted.add_quantizers", fail)
    with pytest.raises(error, match="stop"):
        insert(model, X, target="onnxruntime")
    assert len(calls) == failing
    assert everything(model) == before
    monkeypatch.undo()
    insert(model, X, target="onnxruntime")
    assert quantized(model) == ALL


def test_a_failure_in_placement_undoes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    before = everything(model)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("no rule")

    monkeypatch.setattr("qdq.insertion.placing.place", fail)
    with pytest.raises(RuntimeError, match="no rule"):
        insert(model, X)
    assert everything(model) == before
