"""calibrate: every range from what its site saw, the model left as it was, data errors by name."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate, choose_ranges
from qdq.calibration.ranges import histograms_of
from qdq.errors import CalibrationError, InputError, RegistryError, StepError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn import QuantAdd
from qdq.numerics.grids import Grid
from qdq.numerics.squared_error import grid_error
from qdq.numerics.thresholds import METHODS


class Net(nn.Module):
    """Convs with and without a clamp behind them, a residual sum, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu6, self.add, self.head = nn.ReLU6(), QuantAdd(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.relu6(self.add(self.conv(x), x))
        return self.head(x.mean((2, 3)))


def net(target: str = "onnxruntime") -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    model.stem.weight.data *= 9  # so that the sum reaches past 6
    insert(model, X, target=target)
    return model


def batches(count: int = 3, size: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 6, 6, generator=generator) for _ in range(count)]


X = torch.linspace(-1, 1, 72).reshape(2, 1, 6, 6)


def ranges(model: nn.Module) -> dict[str, tuple[float, float] | None]:
    return {
        site: None if q.amax is None else (float(q.amin), float(q.amax))  # type: ignore[arg-type]
        for site, q in quantizers(model).items()
        if not site.endswith("weight")
    }


def seen_by_hooks(model: Net, data: list[Tensor]) -> dict[str, list[np.ndarray[Any, Any]]]:
    """What enters and leaves each module, from hooks of torch's own."""
    seen: dict[str, list[np.ndarray[Any, Any]]] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            many = len(args) > 1
            for index, each in enumerate(args):
                site = f"{name}.input_{index}" if many else f"{name}.input"
                seen.setdefault(site, []).append(each.numpy().copy())
            seen.setdefault(f"{name}.output", []).append(result.numpy().copy())

        return hook

    modules = {"stem": model.stem, "conv": model.conv, "add": model.add, "head": model.head}
    handles = [module.register_forward_hook(look(name)) for name, module in modules.items()]
    with disable_quantization(model), torch.no_grad():
        for batch in data:
            model(batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_max_is_the_smallest_and_largest_value_each_site_sees(target: str) -> None:
    model, data = net(target), batches()
    calibrate(model, data, method="max", progress=False)
    seen = seen_by_hooks(model, data)
    limits = {"stem.output": (0.0, np.inf), "add.output": (0.0, 6.0)}
    for site, found in ranges(model).items():
        low, high = limits.get(site, (-np.inf, np.inf))
        values = np.clip(np.concatenate([each.ravel() for each in seen[site]]), low, high)
        assert found == (float(values.min()), float(values.max())), site
    assert ranges(model)["add.output"] == (0.0, 6.0)


def test_an_output_before_a_relu_sees_what_leaves_the_relu() -> None:
    model, data = net(), batches()
    report = calibrate(model, data, method="max", progress=False)
    found = ranges(model)
    assert found["stem.output"] == found["conv.input"]
    assert found["stem.output"] is not None
    assert found["stem.output"][0] == 0.0
    row = next(row for row in report.rows if row.site == "stem.output")
    assert row.seen_min == 0.0
    assert row.values == 3 * 2 * 3 * 36


def test_the_report_has_a_row_for_every_activation_site() -> None:
    model = net()
    report = calibrate(model, batches(), method="max", progress=False)
    assert {row.site: (row.amin, row.amax) for row in report.rows} == ranges(model)
    assert all((row.amin, row.amax) == (row.seen_min, row.seen_max) for row in report.rows)
    assert (report.method, report.batches) == ("max", 3)
    assert str(report) == f"{len(report.rows)} sites, ranges by 'max' from 3 batches; 0 sites clip"


def test_sites_of_other_targets_get_their_ranges_in_the_same_pass() -> None:
    model = net("tensorrt")
    calibrate(model, batches(), method="max", progress=False)
    other = net("onnxruntime")
    calibrate(other, batches(), method="max", progress=False)
    assert ranges(model) == ranges(other)


@given(order=st.permutations(range(4)))
@settings(max_examples=8, deadline=None)
def test_ranges_of_every_method_are_the_same_for_any_order_of_the_batches(order: list[int]) -> None:
    data = batches(4)
    first, second = net(), net()
    calibrate(first, data, method="max", progress=False)
    calibrate(second, [data[index] for index in order], method="max", progress=False)
    for method in METHODS:
        reports = [choose_ranges(model, method) for model in (first, second)]
        assert ranges(first) == ranges(second)
        assert sorted(reports[0].rows, key=str) == sorted(reports[1].rows, key=str)


def test_another_method_takes_other_ranges_from_the_same_histograms() -> None:
    model, data = net(), batches(4, 8)
    calibrate(model, data, method="max", progress=False)
    widest = ranges(model)
    report = choose_ranges(model, "percentile")
    assert (report.method, report.batches) == ("percentile", 0)
    fresh = net()
    calibrate(fresh, data, method="percentile", progress=False)
    assert ranges(model) == ranges(fresh)
    assert ranges(model) != widest
    choose_ranges(model, "max")
    assert ranges(model) == widest


def test_ranges_for_one_target_lose_least_on_its_own_grid() -> None:
    model, data = net("tensorrt"), batches(4, 8)
    calibrate(model, data, shared=False, progress=False)
    own = ranges(model)
    choose_ranges(model, "mse")
    shared, symmetric = ranges(model), Grid(symmetric=True)
    assert own != shared
    for site, hist in histograms_of(model).items():
        lows, highs = np.array([own[site], shared[site]], float).T
        error = grid_error(hist, np.minimum(lows, 0.0), highs, symmetric)
        assert error[0] <= error[1]
    choose_ranges(model, "mse", shared=False)
    assert ranges(model) == own


def test_a_grid_that_is_not_symmetric_serves_every_target_anyway() -> None:
    model, data = net("onnxruntime"), batches(2)
    calibrate(model, data, progress=False)
    shared = ranges(model)
    choose_ranges(model, "mse", shared=False)
    assert ranges(model) == shared


def test_a_second_pass_starts_anew() -> None:
    model, data = net(), batches(2)
    calibrate(model, [data[0] * 100], method="max", progress=False)
    calibrate(model, data, method="max", progress=False)
    fresh = net()
    calibrate(fresh, data, method="max", progress=False)
    assert ranges(model) == ranges(fresh)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x],
        lambda x: (x, torch.zeros(len(x))),
        lambda x: ((x,), torch.zeros(len(x))),
        lambda x: {"x": x},
        lambda x: {"x": x, "labels": torch.zeros(len(x))},
        lambda x: ({"x": x}, None),
    ],
)
def test_batches_of_every_allowed_form_reach_the_model(form: Callable[[Tensor], object]) -> None:
    model, wanted = net(), net()
    calibrate(model, [form(batch) for batch in batches()], method="max", progress=False)
    calibrate(wanted, batches(), method="max", progress=False)
    assert ranges(model) == ranges(wanted)


def test_a_generator_will_do() -> None:
    model, wanted = net(), net()
    report = calibrate(model, (batch for batch in batches()), method="max", progress=False)
    calibrate(wanted, batches(), method="max", progress=False)
    assert ranges(model) == ranges(wanted)
    assert report.batches == 3


def test_batches_stops_after_so_many_and_reads_no_further() -> None:
    read: list[int] = []

    def endless() -> Any:
        for index in range(100):
            read.append(index)
            yield batches(100)[index]

    model, wanted = net(), net()
    report = calibrate(model, endless(), method="max", batches=2, progress=False)
    calibrate(wanted, batches(100)[:2], method="max", progress=False)
    assert ranges(model) == ranges(wanted)
    assert (report.batches, read) == (2, [0, 1])


def test_step_runs_the_forward_of_batches_of_any_form() -> None:
    model, wanted = net(), net()
    odd = [("name", index, batch) for index, batch in enumerate(batches())]
    calibrate(model, odd, method="max", step=lambda run, batch: run(batch[2]), progress=False)
    calibrate(wanted, batches(), method="max", progress=False)
    assert ranges(model) == ranges(wanted)


def test_a_batch_of_another_form_points_to_step() -> None:
    with pytest.raises(InputError, match=r"batch 1 is a tuple of 3, .*") as caught:
        calibrate(net(), [X, (X, X, X)], method="max", progress=False)
    assert "pass step=, a function (model, batch)" in caught.value.fix


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_data_that_is_not_finite_is_an_error_with_the_number_of_the_batch(broken: float) -> None:
    data = batches()
    data[2][0, 0, 3, 3] = broken
    with pytest.raises(InputError) as caught:
        calibrate(net(), data, method="max", progress=False)
    assert caught.value.what == "batch 2 holds NaN or infinity"


def test_nan_that_the_model_makes_is_an_error_with_batch_and_first_site() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.sqrt(x) + self.a(x.abs()))

    model = Root().eval()
    insert(model, torch.ones(1, 2))
    with pytest.raises(CalibrationError) as caught:
        calibrate(model, [torch.ones(1, 2), -torch.ones(1, 2)], method="max", progress=False)
    assert str(caught.value) == (
        "batch 1 makes NaN or infinity here: 2 of 2 values\n"
        "  at:  add_0.input_0\n"
        "  fix: the float model is broken on this batch: look at the layers before this site"
    )


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "the data holds no batch"),
        (iter([]), "the data holds no batch"),
        (X, "data is a Tensor, not batches"),
        ({"x": X}, "data is a dict, not batches"),
        (3, "data is a int, not batches"),
    ],
)
def test_data_without_batches_is_an_error(data: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        calibrate(net(), data, method="max", progress=False)
    assert caught.value.what == what


def test_batches_of_zero_are_an_error() -> None:
    with pytest.raises(InputError, match="batches=0 reads nothing"):
        calibrate(net(), batches(), method="max", batches=0, progress=False)


def test_inputs_the_model_does_not_take_are_an_error() -> None:
    with pytest.raises(InputError, match=r"does not take inputs of shape \(1, 5\): RuntimeError"):
        calibrate(net(), [torch.zeros(1, 5)], method="max", progress=False)


def test_training_mode_is_an_error() -> None:
    model = net()
    model.relu6.train()
    with pytest.raises(StepError) as caught:
        calibrate(model, batches(), method="max", progress=False)
    assert str(caught.value) == (
        "calibrate needs the model in eval mode, and it is in training mode\n"
        "  at:  relu6\n"
        "  fix: call model.eval() first"
    )


def test_a_float_model_is_an_error() -> None:
    with pytest.raises(StepError, match="this model has no quantizers"):
        calibrate(nn.Linear(2, 2).eval(), [torch.ones(1, 2)], progress=False)


def test_an_unknown_method_is_an_error_before_any_data_is_read() -> None:
    def never() -> Any:
        raise AssertionError("the data was read")
        yield

    with pytest.raises(RegistryError) as caught:
        calibrate(net(), never(), method="maximum", progress=False)
    assert caught.value.what == "no calibration method 'maximum'"
    assert caught.value.fix.endswith("known: " + ", ".join(sorted(METHODS)))


def test_histograms_are_needed_to_choose_again() -> None:
    with pytest.raises(StepError) as caught:
        choose_ranges(net(), "max")
    assert str(caught.value) == (
        "this model keeps no histograms\n  at:  Net\n  fix: call qdq.calibrate(model, data) first"
    )


class Forked(nn.Module):
    """Two ways, of which the data decides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.both = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if self.both else x


def test_a_site_that_saw_nothing_is_an_error_and_no_range_is_set() -> None:
    model = Forked().eval()
    insert(model, torch.ones(1, 2))
    model.both = False
    with pytest.raises(CalibrationError) as caught:
        calibrate(model, [torch.ones(1, 2)], method="max", progress=False)
    assert str(caught.value) == (
        "1 sites saw no data, or infinity when they were off\n"
        "  at:  b.input\n"
        "  fix: feed a batch that reaches them, or leave their layers out with ignore="
    )
    assert set(ranges(model).values()) == {None}
    disable_quantization(model, "b")
    calibrate(model, [torch.ones(1, 2)], method="max", progress=False)
    assert ranges(model)["a.input"] == (1.0, 1.0)


def test_sites_see_the_float_model_whatever_is_switched_or_was_calibrated() -> None:
    plain, other = net(), net()
    calibrate(plain, batches(), method="max", progress=False)
    calibrate(other, [X / 100], method="max", progress=False)  # tight ranges that would clip
    disable_quantization(other, "conv")
    calibrate(other, batches(), method="max", progress=False)
    assert ranges(plain) == ranges(other)


def state(model: nn.Module) -> Any:
    return (
        {key: value.tolist() for key, value in model.named_parameters()},
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [module.training for module in model.modules()],
        [(q.observer, q.enabled, q.active, q.spec) for q in quantizers(model).values()],
        [len(module._forward_hooks) for module in model.modules()],
        torch.is_grad_enabled(),
    )


def test_the_model_is_given_back_as_it_was() -> None:
    model = net()
    disable_quantization(model, "head")
    before = state(model)
    calibrate(model, batches(), method="max", progress=False)
    assert state(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_is_so_too_when_the_data_or_the_forward_fails(error: type[BaseException]) -> None:
    def broken() -> Any:
        yield X
        raise error("cable pulled")

    def fail(_model: nn.Module, _batch: object) -> None:
        raise error("cable pulled")

    model = net()
    calibrate(model, batches(), method="max", progress=False)
    before, held = state(model), ranges(model)
    told = InputError if error is RuntimeError else error  # the batch is named, see qdq.data
    with pytest.raises(told, match="cable pulled"):
        calibrate(model, broken(), method="max", progress=False)
    with pytest.raises(error, match="cable pulled"):
        calibrate(model, batches(), method="max", step=fail, progress=False)
    assert state(model) == before
    assert ranges(model) == held


def test_a_calibrated_copy_keeps_its_histograms() -> None:
    model = net()
    calibrate(model, batches(), method="percentile", progress=False)
    copied = copy.deepcopy(model)
    choose_ranges(copied, "max")
    assert ranges(copied) != ranges(model)
    calibrate(model, batches(), method="max", progress=False)
    assert ranges(copied) == ranges(model)


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(net(), batches(), method="max")
    assert capsys.readouterr() == ("", "")


def test_a_compiled_model_is_calibrated_as_it_is_eagerly() -> None:
    model, compiled = net(), net()
    compiled.compile(backend="eager")
    for each in (model, compiled):
        calibrate(each, batches(), method="max", progress=False)
    assert ranges(compiled) == ranges(model)


def test_under_inference_mode_ranges_are_set_that_load_later() -> None:
    model, wanted = net(), net()
    with torch.inference_mode():
        calibrate(model, batches(), method="max", progress=False)
    calibrate(wanted, batches(2), method="max", progress=False)
    model.load_state_dict(wanted.state_dict())
    assert ranges(model) == ranges(wanted)


def test_names_with_brackets_are_names() -> None:
    model = nn.Sequential()
    model.add_module("a[0]", nn.Linear(2, 2))
    insert(model.eval(), torch.ones(1, 2))
    calibrate(model, [torch.ones(1, 2)], method="max", progress=False)
    assert ranges(model)["a[0].input"] == (1.0, 1.0)


def test_data_without_a_length_has_none() -> None:
    class Endless(torch.utils.data.IterableDataset[Tensor]):
        def __iter__(self) -> Any:
            return iter(batches())

    model, wanted = net(), net()
    loader = torch.utils.data.DataLoader(Endless(), batch_size=None)
    calibrate(model, loader, method="max", progress=False)
    calibrate(wanted, batches(), method="max", progress=False)
    assert ranges(model) == ranges(wanted)


def test_an_input_that_keeps_a_scale_per_channel_gets_a_range_for_each() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    data = [torch.randn(2, 3, 8, 8) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) for _ in range(2)]
    insert(model, data[0], target="onnxruntime")
    quantizer = quantizers(model)["0.input"]
    quantizer.spec = replace(quantizer.spec, keep_axis=1)
    report = calibrate(model, data, method="max", progress=False)
    seen = torch.cat(data).transpose(0, 1).flatten(1)
    assert quantizer.amin is not None
    assert quantizer.amax is not None
    assert torch.equal(quantizer.amin, seen.amin(1))
    assert torch.equal(quantizer.amax, seen.amax(1))
    row = report.rows[0]
    assert (row.site, row.values) == ("0.input", seen.numel())
    assert (row.seen_min, row.seen_max) == (float(seen.min()), float(seen.max()))
    scale = (quantizer.amax - quantizer.amin).view(3, 1, 1) / 255
    with torch.no_grad():
        assert bool(((quantizer(data[0]) - data[0]).abs() <= scale * 0.51).all())
        assert model(data[0]).shape == (2, 4, 4, 4)
    choose_ranges(model, "mse")
    assert quantizer.amax.shape == (3,)
