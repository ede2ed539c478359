"""Switches act at once and `with` puts back what was."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdq.errors import PolicyError, StepError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, enable_quantization, quantizers
from qdq.nn import QuantLinear, TensorQuantizer

X = torch.linspace(-1, 1, 12).reshape(3, 4)
SITES = [f"{layer}.{role}" for layer in ("0", "2") for role in ("input", "weight", "output")]


def model(target: str = "tensorrt") -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    insert(net, X, target=target)
    for site, quantizer in quantizers(net).items():
        if not site.endswith("weight"):
            quantizer.set_range(-1.0, 1.0)
    return net


def switches(net: nn.Module) -> dict[str, bool]:
    return {site: quantizer.enabled for site, quantizer in quantizers(net).items()}


def test_quantizers_are_found_by_site_in_the_order_of_the_modules() -> None:
    net = model()
    found = quantizers(net)
    assert list(found) == SITES
    assert found["2.weight"] is net[2]._weight_quantizer
    assert [quantizer.site for quantizer in found.values()] == SITES


@pytest.mark.parametrize(
    ("match", "sites"),
    [
        ("2", SITES[3:]),
        ("2.weight", ["2.weight"]),
        ("*.input", ["0.input", "2.input"]),
        (r"re:\.(input|output)$", [site for site in SITES if "weight" not in site]),
        (QuantLinear, SITES),
        (lambda _, module: getattr(module, "out_features", 0) == 2, SITES[3:]),
        (["0.input", "2.output"], ["0.input", "2.output"]),
    ],
)
def test_patterns_pick_sites(match: Any, sites: list[str]) -> None:
    assert list(quantizers(model(), match)) == sites


def test_a_pattern_that_fits_no_site_is_an_error_and_changes_nothing() -> None:
    net = model()
    for switch in (disable_quantization, enable_quantization):
        with pytest.raises(PolicyError) as caught:
            switch(net, ["0", "conv*"])
        assert str(caught.value) == (
            "match pattern 'conv*' fits nothing\n"
            f"  fix: mend or remove it; there is: {', '.join(sorted(SITES))}"
        )
        assert all(switches(net).values())


def test_a_float_model_has_no_switches() -> None:
    with pytest.raises(StepError) as caught:
        disable_quantization(nn.Linear(2, 2))
    assert str(caught.value) == (
        "this model has no quantizers\n"
        "  at:  Linear\n"
        "  fix: call qdq.insert(model, example_inputs) first"
    )


def test_a_switch_acts_at_once_and_for_good() -> None:
    net = model()
    hidden = (X @ net[0].weight.T + net[0].bias).clamp(min=0)
    plain = hidden @ net[2].weight.T + net[2].bias
    simulated = net(X)
    assert not torch.allclose(simulated, plain, atol=1e-5)
    disable_quantization(net)
    torch.testing.assert_close(net(X), plain)
    enable_quantization(net)
    assert torch.equal(net(X), simulated)


def test_a_with_block_puts_back_what_was_also_after_an_exception() -> None:
    net = model()
    disable_quantization(net, "0.input")
    before = switches(net)
    with disable_quantization(net, "2"):
        assert [site for site, on in switches(net).items() if on] == ["0.weight", "0.output"]
    assert switches(net) == before
    with pytest.raises(ValueError, match="inside"), enable_quantization(net):  # noqa: PT012
        assert all(switches(net).values())
        raise ValueError("inside")
    assert switches(net) == before


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["*", "0", "2.weight", "*.input"])), max_size=5
    ),
    start=st.lists(st.booleans(), min_size=6, max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_nested_blocks_each_put_back_what_they_found(
    steps: list[tuple[bool, str]], start: list[bool]
) -> None:
    net = model()
    for site, on in zip(SITES, start, strict=True):
        (enable_quantization if on else disable_quantization)(net, site)

    def nest(rest: list[tuple[bool, str]]) -> None:
        if not rest:
            return
        found = switches(net)
        (on, match), *inner = rest
        with (enable_quantization if on else disable_quantization)(net, match):
            changed = set(quantizers(net, match))
            assert switches(net) == {s: on if s in changed else was for s, was in found.items()}
            nest(inner)
        assert switches(net) == found

    nest(steps)
    assert list(switches(net).values()) == start


@pytest.mark.parametrize("part", ["2.input", "2.weight", "2"])
def test_a_layer_with_an_operand_switched_off_runs_float_and_its_neighbour_knows(part: str) -> None:
    net = model("onnxruntime")
    on = lambda: {site for site, quantizer in quantizers(net).items() if quantizer.on}  # noqa: E731
    before = on()
    assert before == {"0.input", "0.weight", "2.input", "2.weight"}
    with disable_quantization(net, part):
        assert "2.input" not in on()
        assert {"0.input", "0.weight"} <= on()
        assert not net[2].bias_is_integer
        assert net[0].bias_is_integer
    assert on() == before


def test_sites_the_target_does_not_use_stay_inactive_when_enabled() -> None:
    net = model()
    enable_quantization(net)
    assert not quantizers(net)["0.output"].on


def test_quantizers_that_were_never_inserted_have_switches_too() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._input_quantizer = TensorQuantizer()

    own = Own()
    with disable_quantization(own, "input"):
        assert not own._input_quantizer.enabled
    assert own._input_quantizer.enabled
