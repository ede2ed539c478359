"""Call sites: whichever way an addition is written and however its forward ends."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import qdq
from qdq.insertion.recording import record, trace
from qdq.nn import QuantAdd, callsites
from qdq.nn.callsites import add_call_site, follow_calls
from qdq.validation.running import torch_runner


class Callsite(nn.Module):
    """A net whose forward is given to it."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


class ResidualBlock(nn.Module):
    """A convolution and a skip; `hurt` is called in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.hurt: Callable[[], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.hurt is not None:
            self.hurt()
        return F.relu(y + x)


class ResidualNet(nn.Module):
    """Two blocks and an addition of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ResidualBlock(), ResidualBlock()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return self.conv(x) + x


class Grown(nn.Module):
    """Additions in the root, in containers, in blocks, and one of a number."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ResidualNet(), ResidualBlock())
        self.other = ResidualBlock()

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x + 1) + self.other(x) + x


A = torch.linspace(-2.0, 1.7, 8).reshape(2, 4)
B = torch.linspace(0.9, -1.3, 8).reshape(2, 4)
IMAGES = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))
FLOAT_SUM = (A + B).numpy()


@pytest.fixture(autouse=True)
def clean_torch() -> Iterator[None]:
    assert torch._C._len_torch_function_stack() == 0
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert callsites._running.mode is None


def on_grid(x: Any, amax: float) -> np.ndarray:
    scale = np.float32(amax) / np.float32(127)
    return np.clip(np.rint(np.asarray(x) / scale), -128, 127) * scale


QUANTIZED_SUM = on_grid(A, 2.0) + on_grid(B, 1.0)


def ranged(add: QuantAdd) -> QuantAdd:
    """Ranges 2 and 1 for its two inputs."""
    for quantizer, amax in zip(add._input_quantizers, (2.0, 1.0), strict=True):
        quantizer.set_range(None, amax)
    return add


def with_sites(run: Callable[..., Any], *names: str, **layers: nn.Module) -> Callsite:
    model = Callsite(run, **layers)
    for name in names:
        ranged(add_call_site(model, name))
    follow_calls(model)
    return model


def prepared(model: nn.Module | None = None, target: str = "onnxruntime") -> nn.Module:
    torch.manual_seed(0)
    model = (ResidualNet() if model is None else model).eval()
    qdq.insert(model, IMAGES, target=target)
    qdq.calibrate(model, [IMAGES], method="max", progress=False)
    return model


def sum_in_place(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


WAYS = [
    lambda a, b: a + b,
    torch.add,
    Tensor.add,
    Tensor.__add__,
    Tensor.__iadd__,
    sum_in_place,
    lambda a, b: a.clone().add_(b),
    lambda a, b: torch.add(a, other=b),
    lambda a, b: torch.add(input=a, other=b),
]


@pytest.mark.parametrize("way", WAYS)
def test_an_addition_is_quantized_however_it_is_written(way: Any) -> None:
    model = with_sites(lambda _, a, b: way(a, b), "add_0")
    np.testing.assert_array_equal(model(A.clone(), B), QUANTIZED_SUM)


@pytest.mark.parametrize("way", ["add_", "+=", "iadd"])
def test_an_addition_in_place_is_seen_through_an_alias(way: str) -> None:
    def run(_: Any, a: Tensor, b: Tensor) -> Tensor:
        alias = a
        if way == "add_":
            a.add_(b)
        elif way == "iadd":
            a.__iadd__(b)
        else:
            a += b
        assert a is alias
        return alias

    given = A.clone()
    result = with_sites(run, "add_0")(given, B)
    assert result is given
    np.testing.assert_array_equal(given, QUANTIZED_SUM)


def test_gradients_of_an_addition_in_place_reach_both_terms() -> None:
    model = with_sites(lambda _, a, b: (a * 1).add_(b * 1), "add_0")
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    model(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.equal(a.grad, (A.abs() <= 2.0).float())
    assert torch.equal(b.grad, (B.abs() <= 1.0).float())


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (lambda a, b: torch.add(a, b, alpha=2), A + 2 * B),
        (lambda a, b: a + 1, A + 1),
        (lambda a, b: 1.5 + a, A + 1.5),
        (lambda a, b: torch.add(a, b, out=torch.empty(2, 4)), A + B),
    ],
)
def test_another_kind_of_addition_is_left_alone_but_counted(other: Any, expected: Tensor) -> None:
    model = with_sites(lambda _, a, b: (other(a, b), a + b), "add_0", "add_1")
    left, quantized = model(A, B)
    assert torch.equal(left, expected)
    np.testing.assert_array_equal(quantized, QUANTIZED_SUM)


def test_an_addition_without_a_site_is_float() -> None:
    model = with_sites(lambda _, a, b: (a + b, a + b), "add_1")
    left, quantized = model(A, B)
    np.testing.assert_array_equal(left, FLOAT_SUM)
    np.testing.assert_array_equal(quantized, QUANTIZED_SUM)


def test_each_module_counts_its_own_additions_while_others_run_inside() -> None:
    inner = Callsite(lambda _, a, b: (a + b) + b)
    ranged(add_call_site(inner, "add_1"))

    def run(net: Any, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return a + b, net.inner(a, b), a + b

    outer = with_sites(run, "add_1", inner=inner)
    before, inside, after = outer(A, B)
    np.testing.assert_array_equal(before, FLOAT_SUM)
    np.testing.assert_array_equal(inside, on_grid(FLOAT_SUM, 2.0) + on_grid(B, 1.0))
    np.testing.assert_array_equal(after, QUANTIZED_SUM)


def test_a_function_belongs_to_the_module_whose_forward_calls_it() -> None:
    def helper(a: Tensor, b: Tensor) -> Tensor:
        return a + b

    inner = Callsite(lambda _, a, b: helper(a, b))
    ranged(add_call_site(inner, "add_0"))
    outer = with_sites(lambda net, a, b: (helper(a, b), net.inner(a, b)), inner=inner)
    left, quantized = outer(A, B)
    np.testing.assert_array_equal(left, FLOAT_SUM)
    np.testing.assert_array_equal(quantized, QUANTIZED_SUM)


def test_a_site_follows_the_way_that_control_flow_takes() -> None:
    def run(_: Any, a: Tensor, b: Tensor, go: bool) -> Tensor:
        return a + b if go else a - b

    model = with_sites(run, "add_0")
    np.testing.assert_array_equal(model(A, B, True), QUANTIZED_SUM)
    np.testing.assert_array_equal(model(A, B, False), (A - B).numpy())
    np.testing.assert_array_equal(model(A, B, True), QUANTIZED_SUM)


def test_a_module_that_calls_itself_has_one_count_per_call() -> None:
    def run(net: Any, a: Tensor, b: Tensor, depth: int) -> Tensor:
        if depth:
            net(a, b, depth - 1)
        return a + b

    np.testing.assert_array_equal(with_sites(run, "add_0")(A, B, 2), QUANTIZED_SUM)


def test_a_batch_norm_that_counts_its_batches_shifts_no_call_site() -> None:
    def run(net: Any, a: Tensor, b: Tensor) -> Tensor:
        net.norm(a)
        return a + b

    model = with_sites(run, "add_0", norm=nn.BatchNorm1d(4))
    for training in (True, False):
        model.train(training)
        np.testing.assert_array_equal(model(A, B), QUANTIZED_SUM)


def test_a_call_site_is_in_the_mode_of_its_module() -> None:
    for training in (True, False):
        module = nn.Identity().train(training)
        site = add_call_site(module, "add_0")
        assert site.training is training
        assert module._call_sites.training is training  # type: ignore[union-attr]


def test_a_block_called_by_itself_quantizes_as_inside_its_net() -> None:
    model = prepared()
    seen: list[Tensor] = []
    handle = model.first.register_forward_hook(lambda _m, _a, y: seen.append(y))  # type: ignore[union-attr, operator]
    model(IMAGES)
    handle.remove()
    assert torch.equal(model.first(IMAGES), seen[0])  # type: ignore[operator]


def test_additions_outside_any_forward_are_torchs_own() -> None:
    prepared()(IMAGES)
    assert torch.equal(A + B, torch.from_numpy(FLOAT_SUM))
    assert torch._C._len_torch_function_stack() == 0


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
        ranged(add_call_site(inner, "add_0"))

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
    assert seen == [2]


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


def additions(graph: Any) -> list[str]:
    return [op.name for op in graph.ops if op.kind == "add"]


def test_a_recorded_and_a_traced_forward_give_call_sites_the_same_names() -> None:
    model = Grown().eval()
    names = additions(record(model, IMAGES))
    assert additions(trace(model)) == names
    assert names == [
        "add_0",
        "blocks.0.first.add_0",
        "blocks.0.second.add_0",
        "blocks.0.add_0",
        "blocks.1.add_0",
        "other.add_0",
        "add_1",
        "add_2",
    ]


def test_a_block_called_twice_has_one_call_site_in_both_kinds_of_graph() -> None:
    model = nn.Sequential(block := ResidualBlock(), nn.ReLU(), block).eval()
    assert additions(record(model, IMAGES)) == ["0.add_0", "0.add_0"]
    assert additions(trace(model)) == ["0.add_0", "0.add_0"]


@pytest.fixture
def own_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    while torch._C._len_torch_function_stack():
        torch.overrides._pop_mode()


@pytest.mark.usefixtures("own_compiler")
@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(ResidualBlock(), nn.Conv2d(2, 2, 1), ResidualBlock()),
        pytest.param(
            ResidualNet,
            marks=pytest.mark.xfail(
                reason="torch.compile runs the hooks of the root outside of what it compiles"
            ),
        ),
    ],
)
def test_a_compiled_model_quantizes_its_additions(net: Callable[[], nn.Module]) -> None:
    model = prepared(net())
    expected = model(IMAGES)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(IMAGES), expected)
    assert torch.equal(model(IMAGES), expected)


def test_a_program_exported_by_torch_quantizes_its_additions() -> None:
    model = prepared()
    program = torch.export.export(model, (IMAGES,), strict=False)
    assert torch.equal(program.module()(IMAGES), model(IMAGES))
