"""The fastest mixture, against every mixture there is."""

from dataclasses import replace
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.errors import StepError
from qdq.targets.costs.choices import fastest_integer, slower_in_integers
from qdq.targets.costs.nets import price_net
from qdq.targets.costs.tables import cost_table
from qdq.targets.opgraph import OpGraph
from tests.targets.costs.cost_nets import Sized, matrix_net

TABLE = cost_table("x86_vnni")
WIDTHS = st.sampled_from([16, 32, 64, 128])


def chosen(graph: OpGraph, able: frozenset[str]) -> tuple[float, float, float]:
    """Nanoseconds of the mixture that is chosen, of the best there is, and of float."""
    net = price_net(graph, TABLE)
    assert net is not None
    mixtures = chain.from_iterable(combinations(sorted(able), n) for n in range(len(able) + 1))
    best = min(net.total(each) for each in mixtures)
    found = fastest_integer(net, able)
    assert found <= able
    return net.total(found), best, net.total()


@settings(max_examples=40, deadline=None)
@given(st.lists(WIDTHS, min_size=2, max_size=4), st.sampled_from([4, 14, 28]), st.booleans())
def test_no_mixture_of_a_branching_net_is_faster(
    widths: list[int], pixels: int, depthwise: bool
) -> None:
    net = Sized(1, 3, pixels, pixels)
    x = net.op("r", "relu", net.conv("stem", 1, widths[0]))
    for index, width in enumerate(widths[1:]):
        skip = x
        if depthwise:
            x = net.conv(f"deep{index}", x, net.shapes[x][1], groups=net.shapes[x][1])
        x = net.op(f"r{index}", "relu", net.conv(f"conv{index}", x, width, 1))
        if net.shapes[skip] == net.shapes[x]:
            x = net.op(f"add{index}", "add", x, skip)
    graph = net.done(x)
    able = frozenset(op.name for op in graph.ops if op.kind in ("conv", "add"))
    found, best, whole = chosen(graph, able)
    assert found == pytest.approx(best if best < 0.97 * whole else whole)


@given(st.lists(st.sampled_from([8, 64, 128, 640]), min_size=2, max_size=7))
def test_no_mixture_of_a_chain_of_matrix_products_is_faster(widths: list[int]) -> None:
    graph = matrix_net(*widths)
    able = frozenset(op.name for op in graph.ops if op.kind == "linear")
    found, best, whole = chosen(graph, able)
    assert found == pytest.approx(best if best < 0.97 * whole else whole)


def test_the_large_products_of_an_autoencoder_are_chosen_alone() -> None:
    net = price_net(matrix_net(640, 128, 128, 8, 128, 128, 640), TABLE)
    assert net is not None
    able = {name for name in net.steps if name.startswith("fc")}
    assert fastest_integer(net, able) == {"fc0", "fc5"}


def test_what_stays_float_is_told_its_times() -> None:
    graph = matrix_net(640, 128, 128, 8, 128, 128, 640)
    why = slower_in_integers(graph, "x86_vnni", {"fc0", "fc2", "fc5"})
    alone = 0.055 * 128 * 8 + 980, 0.027 * 128 * 8 + 1660
    edge = 0.155 * 128 + 500
    assert why == {
        "fc2": f"predicted {alone[0] / 1e3:.1f} us in float, and in integers {alone[1] / 1e3:.1f} "
        f"us with +{edge / 1e3:.1f} us around it (x86_vnni)"
    }


def test_a_net_that_no_mixture_speeds_up_is_said_to_be_one() -> None:
    why = slower_in_integers(matrix_net(16, 16), "x86_vnni", {"fc0"})
    assert why == {
        "fc0": "no mixture is clearly faster than the whole net in float: predicted 1.0 us in "
        "float, and in integers 1.7 us with +0.5 us around it (x86_vnni)"
    }


def test_without_shapes_there_is_no_choice() -> None:
    graph = replace(matrix_net(16, 16), shapes={})
    with pytest.raises(StepError) as caught:
        slower_in_integers(graph, "x86_vnni", {"fc0"})
    assert str(caught.value) == (
        "the fastest placement depends on the sizes of tensors, which are not known\n"
        "  fix: pass example_inputs to qdq.insert, or a file with fixed sizes; or fastest=False"
    )
