"""Recorded models placed for a target, and for another one later."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import RegistryError, StepError
from qdq.insertion.placing import insertion_of, retarget
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn import QuantAdd
from qdq.spec import QuantSpec
from qdq.targets import get


class Residual(nn.Module):
    """A small ResNet: stem with a max pool, one identity and one downsampling block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c1, self.n1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c2, self.n2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.add1 = QuantAdd()
        self.c3, self.n3 = nn.Conv2d(4, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)
        self.c4, self.n4 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.n5 = nn.Conv2d(4, 8, 1, stride=2), nn.BatchNorm2d(8)
        self.add2, self.head = QuantAdd(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.n0(self.stem(x))), 2)
        y = self.n2(self.c2(F.relu(self.n1(self.c1(x)))))
        x = F.relu(self.add1(y, x))
        y = self.n4(self.c4(F.relu(self.n3(self.c3(x)))))
        x = F.relu(self.add2(y, self.n5(self.down(x))))
        return self.head(x.mean((2, 3)))


X = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
LAYERS = ("stem", "c1", "c2", "c3", "c4", "down", "head")
OPERANDS = {f"{layer}.{role}" for layer in LAYERS for role in ("input", "weight")}


def inserted(target: Any, example: Tensor | None = X) -> Residual:
    torch.manual_seed(0)
    model = Residual().eval()
    insert(model, example, target=target)
    return model


def on(model: nn.Module) -> set[str]:
    return {site for site, quantizer in quantizers(model).items() if quantizer.on}


@pytest.mark.parametrize("example", [X, None], ids=["recorded", "traced"])
def test_a_resnet_for_tensorrt_has_its_skip_branches_quantized_alone(example: Any) -> None:
    assert on(inserted("tensorrt", example)) == OPERANDS | {"add1.input_1", "add2.input_1"}


@pytest.mark.parametrize("example", [X, None], ids=["recorded", "traced"])
def test_a_resnet_for_onnxruntime_has_both_inputs_of_each_sum_quantized(example: Any) -> None:
    sums = {f"{add}.input_{index}" for add in ("add1", "add2") for index in (0, 1)}
    # the mean is float, so the last sum leaves through a pair; all else is read as codes
    assert on(inserted("onnxruntime", example)) == OPERANDS | sums | {"add2.output"}


def test_every_site_gets_the_grid_of_the_target_and_weights_keep_their_axis() -> None:
    for name in ("tensorrt", "onnxruntime"):
        for site, quantizer in quantizers(inserted(name)).items():
            if site.endswith("weight"):
                assert quantizer.spec == QuantSpec(narrow=True, keep_axis=0)
            else:
                assert quantizer.spec == get(name).activation


def test_biases_lie_on_the_int32_grid_for_every_target() -> None:
    for name in ("tensorrt", "onnxruntime"):
        model = inserted(name)
        layers = [model.get_submodule(layer) for layer in LAYERS]
        assert {layer.integer_bias for layer in layers} == {True}  # type: ignore[union-attr]


def test_an_output_before_a_relu_is_limited_by_it_and_others_are_not() -> None:
    sites = quantizers(inserted("onnxruntime"))
    limited = {site for site, quantizer in sites.items() if quantizer.limits}
    assert limited == {f"{op}.output" for op in ("stem", "c1", "c3", "add1", "add2")}
    assert sites["stem.output"].limits == (0.0, float("inf"))


def test_retargeting_moves_switches_and_grids_and_keeps_ranges() -> None:
    model = inserted("tensorrt")
    for site, quantizer in quantizers(model).items():
        if not site.endswith("weight"):
            quantizer.set_range(-1.0, 3.0)
    report = retarget(model, "onnxruntime")
    assert report.target == insertion_of(model).target.name == "onnxruntime"
    assert on(model) == on(inserted("onnxruntime"))
    assert {row.name for row in report.select("quantize")} == on(model)
    found = quantizers(model)["c1.input"]
    assert (float(found.amin), float(found.amax)) == (-1.0, 3.0)  # type: ignore[arg-type]
    assert float(found.grid().scale) == pytest.approx(4 / 255)
    assert float(found.grid().zero_point) == 64
    retarget(model, "tensorrt")
    assert on(model) == on(inserted("tensorrt"))
    assert float(found.grid().scale) == pytest.approx(3 / 127)


def test_retargeting_keeps_what_was_left_and_folded_in_the_report() -> None:
    model = inserted("tensorrt")
    folded = {row.name for row in retarget(model, "onnxruntime").select("fold")}
    assert folded == {f"n{index}" for index in range(6)}


def test_retargeting_keeps_the_users_switches() -> None:
    model = inserted("tensorrt")
    disable_quantization(model, "c3")
    retarget(model, "onnxruntime")
    assert not any(site.startswith("c3.") for site in on(model))
    # c3 and down read the sum; c3 reads it as floats now, so the sum needs a pair behind it
    assert "add1.output" in on(model)
    # and the layer behind c3 quantizes its own input
    assert "c4.input" in on(model)


def test_a_target_with_other_fields_may_be_passed_as_a_value() -> None:
    model = inserted(get("tensorrt", activation=QuantSpec(bits=4)))
    assert quantizers(model)["c1.input"].spec.bits == 4
    assert quantizers(model)["c1.weight"].spec.bits == 8


def test_a_float_model_cannot_be_retargeted() -> None:
    with pytest.raises(StepError) as caught:
        retarget(nn.Linear(2, 2), "tensorrt")
    assert str(caught.value) == (
        "nothing was inserted into this model\n"
        "  at:  Linear\n"
        "  fix: call qdq.insert(model, example_inputs) first"
    )


def test_an_unknown_target_leaves_the_model_as_it_was() -> None:
    model = inserted("tensorrt")
    before = on(model)
    with pytest.raises(RegistryError, match="no target 'onnxruntim'"):
        retarget(model, "onnxruntim")
    assert insertion_of(model).target.name == "tensorrt"
    assert on(model) == before


def test_a_target_that_needs_a_forward_is_refused_where_there_is_none() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else x

    model = Branching().eval()
    insert(model)
    with pytest.raises(StepError, match="target 'onnxruntime' must know who reads what"):
        retarget(model, "onnxruntime")
    assert insertion_of(model).target.name == "tensorrt"


class Pooled(nn.Module):
    """conv, relu, average pool, conv, relu6, and out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.avg_pool2d(F.relu(self.a(x)), 2)
        return F.relu6(self.b(x)), x


def test_a_called_average_pool_reads_codes_and_leaves_as_floats_like_the_module() -> None:
    model = Pooled().eval()
    insert(model, X, target="onnxruntime")
    layers = {f"{c}.{role}" for c in "ab" for role in ("input", "weight")}
    assert on(model) == layers | {"avg_pool_0.input_0", "b.output"}
    assert quantizers(model)["b.output"].limits == (0.0, 6.0)
