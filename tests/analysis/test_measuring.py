"""sensitivity: the layer that was spoiled comes first, and every figure is one taken by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.errors import CalibrationError, InputError, SpecError, StepError
from qdq.records.ranking import SensitivityReport

IMAGES = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 5
DATA = [(IMAGES[:5], LABELS[:5]), (IMAGES[5:10], LABELS[5:10]), (IMAGES[10:], LABELS[10:])]
MODES = ("one_on", "one_off")


class Ranked(nn.Module):
    """A stem, a residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(144, 5)
        self.fail_at = -1
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise ValueError("out of luck")
        x = F.relu(self.stem(x))
        x = F.relu(self.conv(x) + x)
        return self.head(x.flatten(1))


LAYERS = {"stem", "conv", "head", "add_0"}


def ranked(target: str = "onnxruntime") -> Any:
    torch.manual_seed(0)
    model = Ranked().eval()
    qdq.insert(model, IMAGES, target=target)
    qdq.calibrate(model, [IMAGES], method="max", progress=False)
    return model


def spoil(model: nn.Module, layer: str) -> nn.Module:
    """Leave the layer's input a range that is far too small."""
    for site, quantizer in qdq.quantizers(model, layer).items():
        if "input" in site and quantizer.on:
            quantizer.set_range(-0.05, 0.05)
    return model


def measured(model: nn.Module, **options: Any) -> SensitivityReport:
    return qdq.sensitivity(model, DATA, progress=False, **options)  # type: ignore[no-any-return]


def outputs(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(x).numpy() for x, _ in DATA])


def by_hand(model: nn.Module, layer: str, mode: str) -> np.ndarray:
    """Outputs with one layer on, or all but one, by setting every switch and nothing else."""
    own = {f"{layer}.{role}" for role in ("input", "weight", "output", "input_0", "input_1")}
    for name, quantizer in qdq.quantizers(model).items():
        if mode == "one_on":
            quantizer.enabled = name in own
        elif name in own:
            qdq.disable_quantization(model, name)
    found = outputs(model)
    qdq.enable_quantization(model)
    return found


def noise(reference: np.ndarray, found: np.ndarray) -> float:
    wide = reference.astype(np.float64)
    return float(((wide - found) ** 2).sum() / (wide**2).sum())


def switches(model: nn.Module) -> dict[str, tuple[bool, bool]]:
    return {name: (q.enabled, q.active) for name, q in qdq.quantizers(model).items()}


def accuracy(found: np.ndarray) -> float:
    return float(np.mean(found.argmax(1) == LABELS.numpy()))


def steadiness(found: np.ndarray, targets: np.ndarray) -> float:
    """A metric that moves with every bit: minus the mean distance to the class numbers."""
    return -float(np.mean(np.abs(found.mean(1) - targets)))


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_the_layer_that_was_spoiled_comes_first(layer: str, mode: Any, target: str) -> None:
    report = measured(spoil(ranked(target), layer), mode=mode)
    assert {row.layer for row in report.rows} == LAYERS
    assert report.rows[0].layer == layer
    assert report.rows[0].score > 3 * report.rows[1].score


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_of_three_bits_comes_first(mode: Any) -> None:
    model = ranked()
    quantizer = qdq.quantizers(model)["conv.weight"]
    coarse = qdq.QuantSpec(bits=3, narrow=True, keep_axis=0)
    real = torch.nn.Module.__call__

    def with_three_bits(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        quantizer.spec = coarse  # a switch places anew, which sets the target's own spec
        return real(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranked, "__call__", with_three_bits)
        report = measured(model, mode=mode)
    assert report.rows[0].layer == "conv"
    assert report.rows[0].score > 3 * report.rows[1].score


@pytest.mark.parametrize("mode", MODES)
def test_scores_are_those_taken_by_hand(mode: Any) -> None:
    model = spoil(ranked(), "conv")
    report = measured(model, mode=mode)
    with qdq.disable_quantization(model):
        reference = outputs(model)
    whole = noise(reference, outputs(model))
    for row in report.rows:
        found = by_hand(model, row.layer, mode)
        cost = noise(reference, found)
        score = cost if mode == "one_on" else whole - cost
        assert row.score == pytest.approx(score, rel=1e-6, abs=1e-12)
        assert row.sqnr_db == pytest.approx(-10 * math.log10(cost), rel=1e-6)
        assert row.metric == accuracy(found)


@pytest.mark.parametrize("mode", MODES)
def test_with_a_metric_the_score_is_its_fall(mode: Any) -> None:
    model = spoil(ranked(), "head")
    report = measured(model, metric=steadiness, mode=mode)
    with qdq.disable_quantization(model):
        floating = outputs(model)
    start = floating if mode == "one_on" else outputs(model)
    baseline = steadiness(start, LABELS.numpy())
    assert report.baseline == baseline
    assert report.metric_name == "steadiness"
    for row in report.rows:
        value = steadiness(by_hand(model, row.layer, mode), LABELS.numpy())
        assert row.metric == value
        assert row.score == (baseline - value if mode == "one_on" else value - baseline)
    assert report.rows[0].layer == "head"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", [None, steadiness])
def test_rows_fall_in_score_and_equal_scores_rise_in_name(mode: Any, metric: Any) -> None:
    rows = measured(ranked(), mode=mode, metric=metric).rows
    keys = [(-row.score, row.layer) for row in rows]
    assert keys == sorted(keys)
    flat = measured(ranked(), metric=lambda _found, _targets: 0.5)
    assert [row.layer for row in flat.rows] == sorted(LAYERS)
    assert {row.score for row in flat.rows} == {0.0}


def test_the_baseline_is_of_float_or_of_the_model_as_it_is() -> None:
    model = spoil(ranked(), "stem")
    quantized = accuracy(outputs(model))
    with qdq.disable_quantization(model):
        floating = accuracy(outputs(model))
    for mode, baseline in (("one_on", floating), ("one_off", quantized)):
        report = measured(model, mode=mode)
        assert (report.mode, report.baseline, report.samples) == (mode, baseline, 12)
        assert report.metric_name == "top1"


def test_without_targets_there_is_no_metric() -> None:
    for data in ([IMAGES], [(IMAGES,)], [{"x": IMAGES}]):
        report = qdq.sensitivity(ranked(), data, progress=False)
        assert (report.metric_name, report.baseline) == ("", None)
        assert {row.metric for row in report.rows} == {None}
    with pytest.raises(InputError) as caught:
        qdq.sensitivity(ranked(), [IMAGES], metric=steadiness, progress=False)
    assert str(caught.value) == (
        "a metric needs targets, and the batches hold none\n"
        "  fix: yield (inputs, target), or leave metric out"
    )


def test_so_many_batches_are_read_once_and_no_more() -> None:
    taken = []

    def batches() -> Any:
        for batch in DATA:
            taken.append(batch)
            yield batch

    report = qdq.sensitivity(ranked(), batches(), batches=2, progress=False)
    assert report.samples == 10
    assert len(taken) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("off", [(), ("stem",), ("conv.weight", "head.output")])
def test_every_switch_is_put_back(mode: Any, off: tuple[str, ...]) -> None:
    model = ranked()
    for match in off:
        qdq.disable_quantization(model, match)
    before, expected = switches(model), outputs(model)
    measured(model, mode=mode)
    assert switches(model) == before
    np.testing.assert_array_equal(outputs(model), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", [1, 4, 8, 11])
def test_after_an_error_every_switch_is_put_back(mode: Any, call: int) -> None:
    model = ranked()
    before, expected = switches(model), outputs(model)
    model.calls, model.fail_at = 0, call
    with pytest.raises(InputError, match="ValueError: out of luck"):
        measured(model, mode=mode)
    assert switches(model) == before
    model.fail_at = -1
    np.testing.assert_array_equal(outputs(model), expected)


def test_a_layer_switched_off_is_no_row_and_stays_float() -> None:
    model = spoil(ranked("tensorrt"), "conv")
    qdq.disable_quantization(model, "conv")
    report = measured(model)
    assert {row.layer for row in report.rows} == {"stem", "head", "add_0"}
    assert max(row.score for row in report.rows) < 0.01


def test_one_site_switched_off_stays_off_while_its_layer_is_on() -> None:
    model = spoil(ranked("tensorrt"), "head")
    qdq.disable_quantization(model, "head.input")
    rows = {row.layer: row for row in measured(model).rows}
    with qdq.disable_quantization(model, ["stem", "conv", "add_0", "head.input"]):
        found = outputs(model)
    with qdq.disable_quantization(model):
        assert rows["head"].score == pytest.approx(noise(outputs(model), found))


def test_a_model_of_one_layer_at_the_root_has_one_row() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).eval(), torch.randn(5, 6)
    qdq.insert(model, x)
    qdq.calibrate(model, [x], progress=False)
    for mode in MODES:
        report = qdq.sensitivity(model, [x], mode=mode, progress=False)
        assert [row.layer for row in report.rows] == [""]
        assert report.rows[0].score > 0


def test_names_that_look_like_patterns_are_names() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential().eval(), torch.randn(5, 6)
    for name in ("l[01]", "l0", "l*"):
        model.add_module(name, nn.Linear(6, 6).eval())
    qdq.insert(model, x)
    qdq.calibrate(model, [x], progress=False)
    report = qdq.sensitivity(model, [x], progress=False)
    scores = {row.layer: row.score for row in report.rows}
    assert set(scores) == {"l[01]", "l0", "l*"}
    assert len(set(scores.values())) == 3


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (
            lambda: measured(ranked(), mode="all"),
            SpecError,
            "no mode 'all'\n  fix: pass 'one_on' or 'one_off'",
        ),
        (lambda: measured(ranked().train()), StepError, "sensitivity needs the model in eval mode"),
        (lambda: measured(Ranked().eval()), StepError, "this model has no quantizers"),
        (lambda: qdq.sensitivity(ranked(), []), InputError, "the data holds no batch"),
        (lambda: qdq.sensitivity(ranked(), IMAGES), InputError, "data is a Tensor, not batches"),
        (lambda: measured(ranked(), batches=0), InputError, "batches=0 reads nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    wrong: Callable[[], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        wrong()
    assert str(caught.value).startswith(said)


def test_a_site_without_a_range_is_told_by_its_name() -> None:
    model = Ranked().eval()
    qdq.insert(model, IMAGES, target="onnxruntime")
    for mode in MODES:
        before = switches(model)
        with pytest.raises(CalibrationError, match=r"no range yet\n  at:  stem.input"):
            measured(model, mode=mode)
        assert switches(model) == before
