"""What onnxruntime computes on data is counted, value for value, in bounded memory."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import helper

from qdq.errors import CalibrationError, GraphError, InputError
from qdq.graph.quantizing import observing
from qdq.graph.quantizing.cleaning import cleaned
from qdq.graph.quantizing.observing import observe
from qdq.numerics.histogram import Histogram, from_values
from tests.graph.quantizing.float_nets import Feed, FloatNet, images, run

OPSETS = [helper.make_opsetid("", 13)]


def count(graph: gs.Graph, names: list[str], data: list[Feed]) -> dict[str, Histogram]:
    return observe(graph, OPSETS, names, data, at="float.onnx")


def a_net() -> tuple[gs.Graph, list[str]]:
    net, made = drawn()
    graph, _ = cleaned(net.model(net.op("Neg", made[-1])), "float.onnx")
    return graph, made


def drawn() -> tuple[FloatNet, list[str]]:
    net = FloatNet("n", 3, 6, 6)
    made = [net.conv("x", 4, 3)]
    made.append(net.op("Relu", made[-1]))
    made.append(net.conv(made[-1], 5, 4))
    return net, made


def serialized(graph: gs.Graph) -> bytes:
    model = gs.export_onnx(graph, opset_imports=OPSETS)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def batches() -> list[Feed]:
    return [{"x": images(rows, 3, 6, 6, seed=rows)} for rows in (3, 2, 1)]


def test_every_value_of_every_batch_is_counted() -> None:
    graph, names = a_net()
    found = count(graph, ["x", *names], batches())
    net, made = drawn()
    model = net.model(*made)
    results = [[feed["x"], *run(model, feed)] for feed in batches()]
    for index, name in enumerate(["x", *names]):
        values = np.concatenate([each[index].reshape(-1) for each in results])
        wanted = from_values(values)
        assert found[name].total == values.size
        assert (found[name].amin, found[name].amax) == pytest.approx((wanted.amin, wanted.amax))


def test_tensors_that_do_not_fit_into_memory_together_are_taken_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, names = a_net()
    at_once = count(graph, names, batches())
    sessions: list[int] = []
    opened = observing.session_of

    def counted(*args: object, **more: str) -> object:
        sessions.append(1)
        return opened(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(observing, "session_of", counted)
    monkeypatch.setattr(observing, "MOST_BYTES", 3 * 4 * 36 * 4)
    in_turn = count(graph, names, batches())
    assert len(sessions) == 3
    for name in names:
        np.testing.assert_array_equal(at_once[name].bins, in_turn[name].bins)
        np.testing.assert_array_equal(at_once[name].counts, in_turn[name].counts)


def test_a_large_model_is_handed_over_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, names = a_net()
    in_memory = count(graph, names, batches())
    monkeypatch.setattr(observing, "_IN_ONE", 1)
    by_file = count(graph, names, batches())
    assert in_memory[names[0]].amax == by_file[names[0]].amax


def test_the_graph_is_left_as_it_was() -> None:
    graph, names = a_net()
    before = serialized(graph)
    count(graph, names, batches())
    assert serialized(graph) == before


def test_infinity_is_named_with_its_tensor_and_batch() -> None:
    net = FloatNet("n", 4)
    name = net.op("Exp", "x")
    graph, _ = cleaned(net.model(net.op("Neg", name)), "float.onnx")
    data = [{"x": images(2, 4)}, {"x": np.full((1, 4), 1e3, np.float32)}]
    with pytest.raises(CalibrationError) as raised:
        count(graph, [name], data)
    assert str(raised.value) == (
        "batch 1 makes NaN or infinity here: 4 of 4 values\n"
        f"  at:  {name}\n"
        "  fix: the float model is broken on this batch: look at the nodes before this tensor"
    )


def test_shapes_that_the_model_does_not_take_are_named() -> None:
    net = FloatNet("n", "length")
    name = net.op("MatMul", "x", net.hold(net.draw(4, 5)))
    graph, _ = cleaned(net.model(net.op("Neg", name)), "float.onnx")
    with pytest.raises(InputError, match=r"onnxruntime cannot run the model on x \(2, 3\): "):
        count(graph, [name], [{"x": images(2, 3)}])


def test_a_model_that_onnxruntime_does_not_know_is_refused() -> None:
    net = FloatNet("n", 4)
    model = net.model(net.op("Unheard", "x", domain="far.away"))
    with pytest.raises(GraphError, match="onnxruntime refuses this model: "):
        observing.session_of(model, at="float.onnx")
