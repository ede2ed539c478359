"""The ranges chosen are those whose error, worked out by itself, moves the outputs least."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate
from qdq.errors import CalibrationError, InputError, StepError
from qdq.insertion.placing import retarget
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.repair.propagation import SHARES, refine_ranges


class Residual(nn.Module):
    """A block whose input is read by a convolution and by an addition, once out of place."""

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.conv(x)
        if self.in_place:
            y += x
        else:
            y = y + x
        return self.head(F.relu(y, inplace=self.in_place).mean((2, 3)))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 8, 8, generator=generator) for _ in range(3)]


def calibrated(net: nn.Module, data: list[Tensor], *, target: str = "onnxruntime") -> nn.Module:
    insert(net.eval(), data[0], target=target)
    calibrate(net, data, method="max", progress=False)
    return net


def block(*, in_place: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return calibrated(Residual(in_place=in_place), batches())


def ranges(model: nn.Module) -> dict[str, tuple[float, float]]:
    return {
        site: (float(q.amin), float(q.amax))
        for site, q in quantizers(model).items()
        if q.amin is not None and q.amax is not None
    }


def rounded(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 codes and back, as ONNX QuantizeLinear has them."""
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    zero = np.rint(-np.float32(low) / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def test_the_range_is_that_whose_error_moves_a_single_output_least() -> None:
    torch.manual_seed(0)
    net = nn.Linear(64, 1)
    x = torch.randn(1, 64)
    x[0, 0], net.weight.data[0, 0] = 6.0, 1e-3  # the outlier hardly matters
    model = calibrated(nn.Sequential(net), [x])
    low, high = ranges(model)["0.input"]
    tried = [(low * share, high * share) for share in SHARES]
    row = net.weight.detach().numpy()[0]
    moved = [abs(float(row @ (rounded(x.numpy()[0], *ends) - x.numpy()[0]))) for ends in tried]
    refine_ranges(model, [x], progress=False)
    assert ranges(model)["0.input"] == pytest.approx(tried[int(np.argmin(moved))])


def test_noise_is_the_outputs_own_where_only_one_site_rounds() -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, 16)
    model = calibrated(nn.Sequential(nn.Linear(16, 4)), [x])
    (row,) = [each for each in refine_ranges(model, [x], progress=False) if each.layer == "0.input"]
    with torch.no_grad(), disable_quantization(model):
        wanted = model(x)
        low, high = ranges(model)["0.input"]
        got = model(torch.from_numpy(rounded(x.numpy(), low, high)).float())
    noise = (got - wanted).square().sum()
    assert row.after_db == pytest.approx(
        float(10 * (wanted.square().sum() / noise).log10()), abs=0.3
    )
    assert row.after_db >= row.before_db
    assert row.method == "propagation"


def test_sites_of_one_tensor_keep_one_range_for_every_target() -> None:
    model = block()
    before = ranges(model)
    rows = refine_ranges(model, batches(), progress=False)
    after = ranges(model)
    assert after != before
    assert after["conv.input"] == after["add_0.input_1"] == after["stem.output"]
    assert len({row.layer for row in rows}) == len(rows)
    assert sum(row.layer in ("conv.input", "add_0.input_1", "stem.output") for row in rows) == 1
    retarget(model, "tensorrt")
    assert ranges(model) == after


def test_operations_in_place_change_nothing() -> None:
    plain, in_place = block(), block(in_place=True)
    refine_ranges(plain, batches(), progress=False)
    refine_ranges(in_place, batches(), progress=False)
    found, wanted = (np.array(list(ranges(each).values())) for each in (in_place, plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_nothing_but_ranges_changes() -> None:
    model = block()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    refine_ranges(model, batches(), progress=False)
    after = model.state_dict()
    kept = [name for name in before if not name.endswith(("_amin", "_amax"))]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(q.observer or q._forward_hooks for q in quantizers(model).values())


def test_the_same_data_gives_the_same_ranges() -> None:
    first, second = block(), block()
    refine_ranges(first, batches(), progress=False)
    refine_ranges(second, iter(batches()), progress=False)
    assert ranges(first) == ranges(second)


def test_frozen_weights_are_no_obstacle() -> None:
    model, frozen = block(), block().requires_grad_(False)
    refine_ranges(model, batches(), progress=False)
    with torch.no_grad():
        refine_ranges(frozen, batches(), progress=False)
    assert ranges(model) == ranges(frozen)


def test_an_error_leaves_model_and_ranges_as_they_were() -> None:
    model = block()
    before = ranges(model)
    with pytest.raises(InputError, match="does not take inputs of shape"):
        refine_ranges(model, [batches()[0], torch.zeros(1, 5)], progress=False)
    assert ranges(model) == before
    assert not any(q.observer or q._forward_hooks for q in quantizers(model).values())


def detached(model: nn.Module, batch: object) -> Tensor:
    return model(batch).detach()


def nothing(_model: nn.Module, _batch: object) -> None:
    return None


@pytest.mark.parametrize("step", [detached, nothing])
def test_outputs_without_a_gradient_are_refused(
    step: Callable[[nn.Module, object], object],
) -> None:
    with pytest.raises(
        InputError,
        match=r"batch 0 gives no output that gradients lead back from\n"
        r"  fix: let the model, or step=, give its outputs as a tensor, a tuple or a dict, neither "
        r"detached nor computed under torch.no_grad\(\)",
    ):
        refine_ranges(block(), batches(), step=step, progress=False)


def test_infinite_outputs_are_an_error() -> None:
    model = block()
    with torch.no_grad():
        model.get_parameter("head.bias")[0] = torch.inf
    with pytest.raises(CalibrationError, match="batch 0 makes NaN or infinity in the outputs"):
        refine_ranges(model, batches(), progress=False)


def test_a_model_without_ranges_or_in_training_mode_is_refused() -> None:
    model = Residual().eval()
    insert(model, batches()[0], target="onnxruntime")
    with pytest.raises(
        CalibrationError,
        match=r"no range yet\n  at:  stem.input\n  fix: run qdq.calibrate\(model, data\) first",
    ):
        refine_ranges(model, batches(), progress=False)
    with pytest.raises(StepError, match="refine_ranges needs the model in eval mode"):
        refine_ranges(block().train(), batches(), progress=False)
