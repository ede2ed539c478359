"""What the user wants float, and which grids they want, before anything is inserted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdq.errors import PolicyError
from qdq.insertion.policies import Policy
from qdq.insertion.recording import record
from qdq.nn import QuantConv2d, QuantLinear
from qdq.spec import QuantSpec


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.conv1(x))
        return self.conv2(y) + x


class Net(nn.Module):
    """stem -> layer1 -> layer2 -> head; stem -> side; both are given back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.layer1, self.layer2 = Block(), Block()
        self.side, self.head = nn.Linear(2, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        deep = self.layer2(self.layer1(x)).mean((2, 3))
        return self.head(deep), self.side(x.mean((2, 3)))


X = torch.zeros(1, 1, 4, 4)
BLOCK1 = {f"layer1.{part}" for part in ("conv1", "conv2", "add_0")}
BLOCK2 = {f"layer2.{part}" for part in ("conv1", "conv2", "add_0")}
NAMES = sorted({"stem", "side", "head"} | BLOCK1 | BLOCK2)


def policy(ignore: Any = (), only: Any = (), spec: Any = None, *, graph: bool = True) -> Policy:
    net = Net().eval()
    recorded = record(net, X) if graph else None
    return Policy(ignore, only, spec or {}, dict(net.named_modules()), recorded)


def left(**options: Any) -> set[str]:
    asked = policy(**options)
    found = {name for name in NAMES if asked.refuses(name)}
    asked.finish()
    return found


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer1->layer2", BLOCK1 | BLOCK2),
        ("stem->layer1", {"stem"} | BLOCK1),
        ("stem->head", {"stem", "head"} | BLOCK1 | BLOCK2),
        ("stem->side", {"stem", "side"}),
        ("layer1.conv2->layer2.conv1", {"layer1.conv2", "layer1.add_0", "layer2.conv1"}),
        ("layer1.add_0->layer2.add_0", {"layer1.add_0"} | BLOCK2),
        ("layer1.relu_0->layer1.conv2", {"layer1.conv2"}),
        ("head->head", {"head"}),
        (["layer1.conv1->layer1.conv1", "side"], {"layer1.conv1", "side"}),
        (["layer1->layer2", nn.Linear], BLOCK1 | BLOCK2 | {"side", "head"}),
    ],
)
def test_from_to_is_all_on_a_way_between_two_modules_of_the_forward(
    pattern: Any, expected: set[str]
) -> None:
    assert left(ignore=pattern) == expected
    assert left(only=pattern) == set(NAMES) - expected


def test_the_user_is_told_which_pattern_it_was() -> None:
    asked = policy(ignore=["layer1->layer1.add_0", "side"], only=["layer?", Block])
    assert asked.refuses("layer1.conv1") == "ignored by 'layer1->layer1.add_0'"
    assert asked.refuses("side") == "ignored by 'side'"
    assert asked.refuses("head") == "only= does not name it"
    assert asked.refuses("layer2.conv1") == ""


def test_a_policy_without_wishes_refuses_nothing() -> None:
    asked = policy(graph=False)
    assert not any(map(asked.refuses, NAMES))
    asked.finish()
    assert asked.specs_for(["head.input"]) == {}


@pytest.mark.parametrize("option", ["ignore", "only"])
def test_a_pattern_that_fitted_nothing_is_refused_at_the_end(option: str) -> None:
    asked = policy(**{option: ["head", "layer3"]})
    for name in ("", "head", "side"):
        asked.refuses(name)
    with pytest.raises(PolicyError) as caught:
        asked.finish()
    assert str(caught.value) == (
        f"{option} pattern 'layer3' fits nothing\n  fix: mend or remove it; there is: head, side"
    )


@pytest.mark.parametrize("option", ["ignore", "only", "spec"])
def test_a_from_to_needs_a_forward(option: str) -> None:
    value = {"stem->head": QuantSpec()} if option == "spec" else "stem->head"
    with pytest.raises(PolicyError) as caught:
        policy(**{option: value}, graph=False)
    assert str(caught.value) == (
        "what lies between two modules is not known: torch.fx cannot follow this forward\n"
        "  at:  stem->head\n"
        "  fix: pass example_inputs to qdq.insert, so that one forward can be recorded"
    )


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("head->stem", "no way leads from 'head' to 'stem'\n  at:  head->stem\n  fix: turn it"),
        ("side->head", "no way leads from 'side' to 'head'\n  at:  side->head\n  fix: name two"),
        ("stem->layr1", "the forward never calls 'layr1', nor anything in it"),
        ("stem->", "ignore pattern 'stem->' has an arrow and not two ends"),
    ],
)
def test_a_from_to_without_a_way_is_refused_before_anything_is_asked(
    pattern: str, said: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(ignore=pattern)
    assert str(caught.value).startswith(said)


# Grids of the user's own.

FOUR, SIX, SIXTEEN = (QuantSpec(bits=bits) for bits in (4, 6, 16))
MODULES = {"": nn.Module(), "conv": QuantConv2d(1, 1, 1), "fc": QuantLinear(1, 1)}
SITES = [f"{layer}.{role}" for layer in ("conv", "fc") for role in ("input", "weight", "output")]
SITES += ["add_0.input_0", "add_0.input_1"]


def specs(spec: Any, sites: list[str] = SITES) -> dict[str, QuantSpec]:
    return Policy((), (), spec, MODULES, None).specs_for(sites)


def every(layer: str, grid: QuantSpec) -> dict[str, QuantSpec]:
    return {site: grid for site in SITES if site.startswith(f"{layer}.")}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"fc": SIXTEEN}, every("fc", SIXTEEN)),
        ({"fc.*": SIXTEEN}, every("fc", SIXTEEN)),
        ({nn.Linear: SIXTEEN}, every("fc", SIXTEEN)),
        ({"fc.input": FOUR}, {"fc.input": FOUR}),
        ({"*.weight": FOUR}, {"conv.weight": FOUR, "fc.weight": FOUR}),
        ({"re:weight$": FOUR}, {"conv.weight": FOUR, "fc.weight": FOUR}),
        ({"add_0": SIX}, every("add_0", SIX)),
        ({lambda name, _: name == "fc": SIX}, every("fc", SIX)),
        ({"fc.weight": FOUR, "fc": SIX}, every("fc", SIX) | {"fc.weight": FOUR}),
        ({"fc": SIX, "*.weight": FOUR}, every("fc", SIX) | {"conv.weight": FOUR}),
        ({"*": SIX}, dict.fromkeys(SITES, SIX)),
    ],
)
def test_a_grid_goes_to_every_site_its_pattern_fits_and_the_first_pattern_decides(
    spec: Any, expected: dict[str, QuantSpec]
) -> None:
    assert specs(spec) == expected


def test_a_grid_can_be_given_from_one_module_to_another() -> None:
    sites = ["stem.input", "layer1.conv2.weight", "layer1.add_0.input_1", "side.input"]
    assert policy(spec={"layer1->head": SIX}).specs_for(sites) == {
        "layer1.conv2.weight": SIX,
        "layer1.add_0.input_1": SIX,
    }


def test_the_modules_are_looked_at_as_they_are_when_the_sites_are_asked_for() -> None:
    layer = nn.Linear(1, 1)
    asked = Policy((), (), {QuantLinear: SIX}, {"fc": layer}, None)
    layer.__class__ = QuantLinear
    assert asked.specs_for(["fc.input"]) == {"fc.input": SIX}


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_weight_may_keep_scales_along_any_axis_it_has(axis: int) -> None:
    grid = QuantSpec(keep_axis=axis)
    assert specs({"conv.weight": grid}) == {"conv.weight": grid}


def test_one_weight_of_several_may_keep_scales_along_an_axis() -> None:
    grid = QuantSpec(keep_axis=0)
    assert specs({"lstm.weight_1": grid}, ["lstm.weight_0", "lstm.weight_1"]) == {
        "lstm.weight_1": grid
    }


REFUSED: dict[str, tuple[Any, str]] = {
    "a grid alone": (
        SIX,
        "spec is a QuantSpec, not patterns with a QuantSpec each\n"
        "  fix: write spec={'*': qdq.QuantSpec(bits=8)}",
    ),
    "a list": (
        ["fc"],
        "spec is a list, not patterns with a QuantSpec each\n"
        "  fix: write spec={'*': qdq.QuantSpec(bits=8)}",
    ),
    "a number of bits": (
        {"fc": 8},
        "spec gives 'fc' a int, which is no QuantSpec\n"
        "  fix: write spec={pattern: qdq.QuantSpec(bits=8)}",
    ),
    "a pattern that is none": (
        {5: SIX},
        "spec holds 5, which is no pattern\n"
        "  fix: use a glob, 're:...', a class, or a callable(name, module) -> bool",
    ),
    "a pattern that fits nothing": (
        {"fc": SIX, "cf": SIX},
        "spec pattern 'cf' fits nothing\n  fix: mend or remove it; there is: add_0.input_0, "
        "add_0.input_1, conv.input, conv.output, conv.weight, fc.input, fc.output, fc.weight",
    ),
    "a wide pattern before a narrow one": (
        {"*": SIX, nn.Linear: FOUR},
        "spec pattern Linear decides nothing: earlier ones fit all that it fits\n"
        "  fix: put it before the wider ones, or remove it",
    ),
    "scales along an axis of an activation": (
        {"fc": QuantSpec(keep_axis=0)},
        "spec pattern 'fc' keeps scales along axis 0 of a tensor that has one scale in all\n"
        "  at:  fc.input\n"
        "  fix: leave keep_axis out, or name weights alone, as in '*.weight', and an axis of them",
    ),
    "an axis the weight has not": (
        {"*.weight": QuantSpec(keep_axis=2)},
        "spec pattern '*.weight' keeps scales along axis 2 of a tensor that has 2 axes\n"
        "  at:  fc.weight\n"
        "  fix: leave keep_axis out, or name weights alone, as in '*.weight', and an axis of them",
    ),
    "an axis from behind": (
        {"fc.weight": QuantSpec(keep_axis=-1)},
        "spec pattern 'fc.weight' keeps scales along axis -1 of a tensor that has 2 axes\n"
        "  at:  fc.weight\n"
        "  fix: leave keep_axis out, or name weights alone, as in '*.weight', and an axis of them",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wish_for_grids_that_cannot_be_met_is_refused_with_a_fix(case: str) -> None:
    spec, text = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        specs(spec)
    assert str(caught.value) == text
