"""Call sites while forwards run, in threads, end by exceptions, and are copied."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callsite_nets import (
    FLOAT_SUM,
    IMAGES,
    QUANTIZED_SUM,
    A,
    B,
    Callsite,
    ResidualNet,
    addition,
    prepared,
    ranged,
    with_sites,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import qdq
from qdq.nn import callsites
from qdq.nn.holders import add_call_site
from qdq.validation.running import torch_runner


@pytest.fixture(autouse=True)
def clean_torch() -> Iterator[None]:
    assert torch._C._len_torch_function_stack() == 0
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert callsites._running.mode is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_after_an_exception_the_next_forward_is_right_and_torch_is_untouched(
    error: type[BaseException],
) -> None:
    model = prepared()
    expected = model(IMAGES)

    def hurt() -> None:
        raise error

    for block in (model.first, model.second):
        block.hurt = hurt  # type: ignore[union-attr]
        with pytest.raises(error):
            model(IMAGES)
        block.hurt = None  # type: ignore[union-attr]
        for _ in range(5):  # enough to meet every number a stale frame could be at
            assert np.array_equal(A + B, FLOAT_SUM)
        assert torch.equal(model(IMAGES), expected)
        assert torch._C._len_torch_function_stack() == 0


def test_after_an_interrupt_any_forward_with_call_sites_heals_torch() -> None:
    model, other = prepared(), prepared()
    expected = other(IMAGES)

    def hurt() -> None:
        raise KeyboardInterrupt

    model.second.hurt = hurt  # type: ignore[union-attr]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            model(IMAGES)
    assert torch.equal(other.first(IMAGES), other.first(IMAGES))  # type: ignore[operator]
    assert torch.equal(other(IMAGES), expected)


def test_a_forward_that_catches_what_a_block_raised_keeps_its_own_count() -> None:
    for error in (ValueError, KeyboardInterrupt):
        inner = Callsite(lambda _, a, b: (a + b, [][0]))
        inner.error = error

        def fail(net: Any, a: Tensor, b: Tensor) -> None:
            raise net.error

        inner.run = fail
        ranged(add_call_site(inner, addition("add_0")))

        def run(net: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            first = a + b
            with pytest.raises(net.inner.error):
                net.inner(a, b)
            return first, a + b

        outer = with_sites(run, "add_1", inner=inner)
        first, second = outer(A, B)
        np.testing.assert_array_equal(first, FLOAT_SUM)
        np.testing.assert_array_equal(second, QUANTIZED_SUM)


def test_a_hook_that_raises_before_ours_takes_no_other_modules_count() -> None:
    inner = Callsite(lambda _, a, b: a + b)

    def refuse(_module: nn.Module, _args: object) -> None:
        raise ValueError("not today")

    inner.register_forward_pre_hook(refuse)

    def run(net: Any, a: Tensor, b: Tensor) -> Tensor:
        with pytest.raises(ValueError, match="not today"):
            net.inner(a, b)
        return a + b

    np.testing.assert_array_equal(with_sites(run, "add_0", inner=inner)(A, B), QUANTIZED_SUM)


class Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_reset_takes_out_a_left_mode_from_below_others() -> None:
    model = prepared()

    def hurt() -> None:
        raise KeyboardInterrupt

    model.first.hurt = hurt  # type: ignore[union-attr]
    with pytest.raises(KeyboardInterrupt):
        model(IMAGES)
    assert torch._C._len_torch_function_stack() == 1
    with Watching() as watching:
        callsites.reset()
        assert torch.overrides._get_current_function_mode_stack() == [watching]
    assert torch._C._len_torch_function_stack() == 0


def test_reset_inside_a_running_forward_changes_nothing() -> None:
    def run(_: Any, a: Tensor, b: Tensor) -> Tensor:
        callsites.reset()
        return a + b

    np.testing.assert_array_equal(with_sites(run, "add_0")(A, B), QUANTIZED_SUM)


STAGES: dict[str, Callable[[nn.Module], object]] = {
    "calibrate": lambda model: qdq.calibrate(model, [IMAGES], progress=False),
    "sensitivity": lambda model: qdq.sensitivity(model, [IMAGES], progress=False),
    "validate": lambda model: torch_runner(model)(IMAGES),
    "finetune": lambda model: qdq.finetune(
        model, [(IMAGES, IMAGES)], loss=F.mse_loss, epochs=1, lr=1e-3, progress=False
    ),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_stage_leaves_torch_clean_at_once(stage: str) -> None:
    if stage == "finetune":
        pytest.importorskip("lightning")
    model = prepared()
    seen: list[int] = []

    def hurt() -> None:
        seen.append(torch._C._len_torch_function_stack())
        raise KeyboardInterrupt

    model.second.hurt = hurt  # type: ignore[union-attr]
    with Watching() as watching:
        with pytest.raises(KeyboardInterrupt):
            STAGES[stage](model)
        assert torch.overrides._get_current_function_mode_stack() == [watching]
    assert seen == [3 if stage == "calibrate" else 2]  # it follows ReLUs too


def test_two_threads_run_two_models_at_once() -> None:
    torch.manual_seed(0)
    models = [prepared(ResidualNet()) for _ in range(2)]
    expected = [model(IMAGES) for model in models]
    barrier, failures = threading.Barrier(2), []

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(30):
            if not torch.equal(models[index](IMAGES), expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_two_threads_run_one_model_at_once() -> None:
    model = prepared()
    expected, results = model(IMAGES), []
    barrier = threading.Barrier(2)

    def meet() -> None:
        barrier.wait(timeout=30)

    model.first.hurt = meet  # type: ignore[union-attr]  # both are inside the block
    threads = [threading.Thread(target=lambda: results.append(model(IMAGES))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(each, expected) for each in results] == [True, True]


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_quantizes_as_the_original_and_shares_nothing(way: str, tmp_path: Path) -> None:
    model = prepared()
    expected = model(IMAGES)
    if way == "deepcopy":
        twin = copy.deepcopy(model)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, tmp_path / "m.pt")
        twin = torch.load(tmp_path / "m.pt", weights_only=False)
    assert torch.equal(twin(IMAGES), expected)
    qdq.quantizers(twin, "first.add_0.input_0")["first.add_0.input_0"].set_range(0.0, 0.5)
    assert not torch.equal(twin(IMAGES), expected)
    assert torch.equal(model(IMAGES), expected)


def test_a_saved_model_with_additions_loads_into_a_fresh_one(tmp_path: Path) -> None:
    model = prepared()
    qdq.save(model, tmp_path / "m.safetensors")
    fresh = ResidualNet().eval()
    qdq.load(fresh, tmp_path / "m.safetensors")
    assert torch.equal(fresh(IMAGES), model(IMAGES))
    assert fresh.state_dict().keys() == model.state_dict().keys()
    qdq.retarget(fresh, "tensorrt")
    qdq.retarget(model, "tensorrt")
    assert torch.equal(fresh(IMAGES), model(IMAGES))


def test_state_keys_are_those_of_the_float_model_and_the_ranges() -> None:
    float_keys = set(ResidualNet().state_dict())
    state = prepared().state_dict()
    assert float_keys <= set(state)
    added = set(state) - float_keys
    assert all(key.endswith(("._amin", "._amax")) for key in added)
    assert "first._call_sites.add_0._input_quantizers.1._amax" in added
    assert "_call_sites.add_0._input_quantizers.0._amin" in added


def test_with_its_quantizers_off_a_model_computes_its_float_outputs_bit_for_bit() -> None:
    torch.manual_seed(0)
    expected = ResidualNet().eval()(IMAGES)
    model = prepared()
    assert not torch.equal(model(IMAGES), expected)
    with qdq.disable_quantization(model):
        assert torch.equal(model(IMAGES), expected)
