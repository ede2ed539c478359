"""initialize: building a float layer gives its twin, and afterwards torch is what it was."""

import copy
import inspect
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import Conv2d as EarlyConv2d

from qdq.errors import CalibrationError, PolicyError
from qdq.insertion.initializing import deactivate, initialize, initialized
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn import QuantAdaptiveAvgPool2d, QuantConv2d, QuantLinear, QuantWeighted, register
from qdq.nn.twins import TWINS
from qdq.records.patching import InitializeReport

MODULES = [name for name in sys.modules if f"{name}.".startswith("torch.nn.modules.")]
CLASSES = [each for each in vars(nn).values() if isinstance(each, type)]


def namespaces() -> list[dict[str, Any]]:
    """What torch.nn, its modules and its classes hold, but for what copying leaves there."""
    spaces = [vars(nn), *(vars(sys.modules[name]) for name in MODULES), *map(vars, CLASSES)]
    return [{name: space[name] for name in space if name != "__slotnames__"} for space in spaces]


@pytest.fixture(autouse=True)
def _torch_is_what_it_was() -> Iterator[None]:
    twins, before = dict(TWINS), namespaces()
    yield
    deactivate()
    after = namespaces()
    TWINS.clear()
    TWINS.update(twins)
    assert all(
        then.keys() == now.keys() and all(then[name] is now[name] for name in then)
        for then, now in zip(before, after, strict=True)
    )


class Net(nn.Module):
    """Layers by every way to name a class."""

    def __init__(self, layer: type[nn.Module] = EarlyConv2d) -> None:
        super().__init__()
        self.by_attribute = nn.Conv2d(1, 2, 3, padding="same")
        self.by_early_import = EarlyConv2d(2, 2, 3, padding=1, device="cpu", dtype=torch.float32)
        self.by_default_argument = layer(2, 2, 1)
        self.by_module = torch.nn.modules.linear.Linear(2, 3, bias=False)
        self.without_own_constructor = nn.AdaptiveAvgPool2d(1)
        self.no_twin = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.by_early_import(self.no_twin(self.by_attribute(x)))
        return self.by_module(self.without_own_constructor(self.by_default_argument(x)).flatten(1))


REACHED = {
    "by_attribute": QuantConv2d,
    "by_early_import": QuantConv2d,
    "by_default_argument": QuantConv2d,
    "by_module": QuantLinear,
    "without_own_constructor": QuantAdaptiveAvgPool2d,
    "no_twin": nn.ReLU,
}
FLOAT = {
    "by_attribute": nn.Conv2d,
    "by_early_import": nn.Conv2d,
    "by_default_argument": nn.Conv2d,
    "by_module": nn.Linear,
    "without_own_constructor": nn.AdaptiveAvgPool2d,
    "no_twin": nn.ReLU,
}


def built() -> dict[str, type]:
    return {name: type(layer) for name, layer in Net().named_children()}


def test_while_it_is_on_every_way_to_name_a_class_builds_the_twin() -> None:
    assert built() == FLOAT
    initialize()
    assert built() == REACHED
    deactivate()
    assert built() == FLOAT


def test_every_class_that_has_a_twin_builds_it() -> None:
    initialize()
    for float_class, twin in TWINS.items():
        name = float_class.__name__
        sizes = (2,) if "Pool" in name else (2, 2, 1) if "Conv" in name else (2, 2)
        layer = float_class(*sizes)
        assert type(layer) is twin
        assert quantizers(layer)


def test_a_model_built_so_computes_what_its_float_self_does_and_has_its_sites() -> None:
    torch.manual_seed(0)
    plain = Net()
    torch.manual_seed(0)
    with initialized():
        model = Net()
    assert model.state_dict().keys() == plain.state_dict().keys()
    roles = ("input", "weight", "output")
    assert set(quantizers(model)) == {
        *(f"{name}.{role}" for name in REACHED if name.startswith("by_") for role in roles),
        "without_own_constructor.input",
    }
    x = torch.randn(2, 1, 5, 5)
    with disable_quantization(model):
        assert torch.equal(model(x), plain(x))
    for site, quantizer in quantizers(model).items():
        if not site.endswith("weight"):
            quantizer.set_range(-1.0, 1.0)
    assert not torch.equal(model(x), plain(x))
    torch.testing.assert_close(model(x), plain(x), atol=0.1, rtol=0)


def test_isinstance_holds_for_layers_built_before_and_meanwhile() -> None:
    before = nn.Conv2d(1, 1, 1)
    with initialized():
        meanwhile = nn.Conv2d(1, 1, 1)
        assert isinstance(before, nn.Conv2d)
        assert isinstance(meanwhile, nn.Conv2d)
        assert nn.Conv2d is EarlyConv2d
    assert isinstance(meanwhile, nn.Conv2d)


def test_layers_that_exist_and_their_copies_stay_what_they_are() -> None:
    layer = nn.Linear(2, 2)
    with initialized():
        twin = nn.Linear(2, 2)
        for remake in (copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
            assert type(remake(layer)) is nn.Linear
            assert type(remake(twin)) is QuantLinear
    assert type(pickle.loads(pickle.dumps(twin))) is QuantLinear


def test_a_subclass_builds_itself_whenever_it_was_defined() -> None:
    class Before(nn.Linear):
        pass

    with initialized() as report:

        class Meanwhile(nn.Linear):
            def __init__(self) -> None:
                nn.Linear.__init__(self, 2, 2)

        assert type(Before(2, 2)) is Before
        assert type(Meanwhile()) is Meanwhile
        assert not quantized(Before(2, 2), Meanwhile())
    why = "a subclass of Linear, which may compute something else: register a twin for it"
    left = {row.name: row.why for row in report.select("skip")}
    assert left[f"{__name__}.{Before.__qualname__}"] == why
    assert left["torch.nn.LazyLinear"] == why
    assert Meanwhile.__mro__[1] is nn.Linear


def quantized(*layers: nn.Module) -> bool:
    return any(isinstance(module, QuantWeighted) for each in layers for module in each.modules())


def test_quantized_layers_are_built_as_ever() -> None:
    with initialized():
        layer = QuantConv2d(1, 1, 1)
    assert type(layer) is QuantConv2d
    assert set(quantizers(layer)) == {"input", "weight", "output"}


@pytest.mark.parametrize("grad", [True, False])
def test_what_torch_builds_inside_is_reached_and_no_fast_path_goes_around_it(grad: bool) -> None:
    with initialized():
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert type(layer.linear1) is type(layer.linear2) is QuantLinear
    with pytest.raises(CalibrationError, match="no range yet"), torch.set_grad_enabled(grad):
        layer(torch.zeros(1, 3, 8))


def test_a_users_own_float_class_builds_its_twin_wherever_it_was_imported() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    @register(Scaled)
    class QuantScaled(QuantWeighted, Scaled):
        kind = "linear"

    alias = Scaled
    with initialized() as report:
        assert type(alias(2, 2)) is QuantScaled
    assert type(alias(2, 2)) is Scaled
    rows = {row.name: (row.action, row.why) for row in report.rows}
    twin = f"{__name__}.{QuantScaled.__qualname__}"
    assert rows[f"{__name__}.{Scaled.__qualname__}"] == ("quantize", f"builds {twin}")


def test_twice_on_and_once_off_is_off_and_off_may_be_said_at_any_time() -> None:
    deactivate()
    initialize()
    initialize()
    assert built() == REACHED
    deactivate()
    assert built() == FLOAT
    deactivate()
    assert built() == FLOAT


def test_a_second_call_replaces_what_the_first_one_ignores() -> None:
    initialize(ignore="Linear")
    assert built() == {**REACHED, "by_module": nn.Linear}
    initialize(ignore="Conv*")
    pool = {"without_own_constructor": QuantAdaptiveAvgPool2d}
    assert built() == {**FLOAT, "by_module": QuantLinear, **pool}
    initialize()
    assert built() == REACHED


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        ("Linear", {"Linear"}),
        ("ConvTranspose*", {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"}),
        ("re:^Conv.d$", {"Conv1d", "Conv2d", "Conv3d"}),
        (nn.Conv2d, {"Conv2d"}),
        (torch.nn.modules.conv._ConvTransposeNd, {f"ConvTranspose{n}d" for n in (1, 2, 3)}),
        (lambda name, _: name.endswith("Pool1d"), {"AvgPool1d", "AdaptiveAvgPool1d"}),
        (["Linear", nn.Conv1d], {"Linear", "Conv1d"}),
        ((), set()),
    ],
)
def test_patterns_say_which_classes_stay_float(ignore: Any, left: set[str]) -> None:
    report = initialize(ignore)
    builds = {row.name for row in report.select("quantize")}
    assert builds == {f"torch.nn.{each.__name__}" for each in TWINS if each.__name__ not in left}
    ignored = [row for row in report.select("skip") if row.why.startswith("ignored by ")]
    assert {row.name for row in ignored} == {f"torch.nn.{name}" for name in left}
    assert type(nn.Linear(1, 1)) is (nn.Linear if "Linear" in left else QuantLinear)


def test_a_pattern_that_fits_nothing_is_an_error_and_changes_nothing() -> None:
    initialize(ignore="Linear")
    for ignore, label in (("Linaer", "'Linaer'"), (nn.ReLU, "ReLU"), (["Conv*", "x"], "'x'")):
        with pytest.raises(PolicyError) as caught:
            initialize(ignore)
        text = str(caught.value)
        assert text.startswith(f"ignore pattern {label} fits no class that has a twin\n  fix: ")
        assert text.endswith(f"known: {', '.join(sorted(each.__name__ for each in TWINS))}")
        assert ("did you mean 'Linear'? " in text) == (ignore == "Linaer")
        assert built() == {**REACHED, "by_module": nn.Linear}


def test_ignoring_everything_is_an_error() -> None:
    with pytest.raises(PolicyError) as caught:
        initialize(nn.Module)
    assert str(caught.value) == (
        "ignore= leaves no class that would build its twin\n"
        "  fix: ignore less, or build the model without qdq.initialize"
    )
    assert built() == FLOAT


def test_blocks_nest_and_each_puts_back_what_was_after_exceptions_too() -> None:
    def fail() -> NoReturn:
        with initialized(ignore="Conv2d"):
            assert built()["by_attribute"] is nn.Conv2d
            assert built()["by_module"] is QuantLinear
            raise KeyboardInterrupt

    with initialized(ignore="Linear"):
        with pytest.raises(KeyboardInterrupt):
            fail()
        assert built() == {**REACHED, "by_module": nn.Linear}
        with initialized():
            deactivate()
        assert built() == {**REACHED, "by_module": nn.Linear}
    assert built() == FLOAT


STEPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["Linear", "Conv*", "*Pool*", ()])), max_size=5
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_any_nest_of_blocks_and_calls_ends_as_it_began(steps: list[tuple[bool, Any]]) -> None:
    def nest(rest: list[tuple[bool, Any]]) -> None:
        if not rest:
            return
        (block, ignore), *inner = rest
        if not block:
            initialize(ignore)
            nest(inner)
            return
        found = built()
        with initialized(ignore):
            assert (built()["by_module"] is QuantLinear) == (ignore != "Linear")
            nest(inner)
        assert built() == found

    before = namespaces()
    nest(steps)
    deactivate()
    assert namespaces() == before


def test_what_is_imported_meanwhile_keeps_nothing_of_it() -> None:
    late = ModuleType("late")
    with initialized():
        exec("from torch.nn import Conv2d\nclass Mine(Conv2d): pass", vars(late))
    assert type(late.Conv2d(1, 1, 1)) is nn.Conv2d
    assert late.Mine.__mro__[1] is nn.Conv2d


def test_a_constructor_still_says_what_it_takes_and_refuses_the_rest() -> None:
    before = inspect.signature(nn.Conv2d)
    with initialized():
        assert inspect.signature(nn.Conv2d) == before
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            nn.Linear(2)  # type: ignore[call-arg]
        skipped = torch.nn.utils.skip_init(nn.Linear, 2, 3)
    assert type(skipped) is QuantLinear


def test_the_report_says_what_is_reached_and_what_is_not_and_becomes_json_and_back() -> None:
    report = initialize(ignore="Linear")
    lines = str(report).splitlines()
    count = len(TWINS) - 1
    assert lines[0] == f"{count} classes build their quantized twins, however they were imported"
    assert "  torch.nn.Conv2d builds qdq.nn.conv.QuantConv2d" in lines
    assert "  left float: torch.nn.Linear: ignored by 'Linear'" in lines
    assert not any("torch.ao" in line or "qdq.nn" in line for line in lines if "left" in line)
    assert InitializeReport.from_dict(report.to_dict()) == report
