from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from qdq.errors import GraphError, RegistryError
from qdq.graph.explaining.explanation import explain
from qdq.graph.files import load, metadata
from qdq.graph.linting.judging import lint
from qdq.graph.speed import PASSES, speed_up, speed_up_file
from qdq.targets import TARGETS, get
from qdq.targets.target import VARIANTS
from tests.graph.explained_files import exported
from tests.graph.graph_sketch import LEVELS, Sketch, executed, results, written


def image_net() -> gs.Graph:
    """A stem, a depthwise block of eight channels behind a Pad, signed codes, a shortcut."""
    draw = Sketch("batch", 3, 16, 16)
    x = draw.pair(draw.x, "in", 0.1, 0, np.int8)
    x = draw.node("Relu", draw.integer_conv(x, 16, 3, 7, 7, strides=[2, 2], pads=[3] * 4))
    skip = x = draw.pair(x, "stem", 0.1, 0, np.int8)
    x = draw.node("Relu", draw.integer_conv(x, 8, 16, 1, 1))
    pads = draw.constant("pads", np.int64([0, 0, 0, 0, 0, 0, 2, 2]))
    x = draw.pair(draw.node("Pad", x, pads), "wide", 0.1, 0, np.int8)
    x = draw.node("Relu", draw.integer_conv(x, 8, 1, 3, 3, group=8))
    x = draw.pair(x, "deep", 0.1, 0, np.int8)
    x = draw.pair(draw.integer_conv(x, 16, 8, 1, 1), "narrow", 0.1, 0, np.int8)
    return draw.done(draw.pair(draw.node("Add", x, skip), "sum", 0.17, 0, np.int8))


def test_all_passes_together_change_no_code_and_leave_nothing_float() -> None:
    before = results(image_net(), sizes={"batch": 2})
    graph = image_net()
    done = speed_up(graph)
    after = results(graph, LEVELS.ORT_ENABLE_ALL, {"batch": 2})
    np.testing.assert_array_equal(before[0], after[0])
    wanted = {"fold_pads": 1, "shift_codes": 6, "clamp_codes": 3, "pad_channels": 1}
    wanted |= {"block_stem": 1, "pad_stem": 0, "multiply_flat": 0}
    assert wanted.items() <= done.items()
    left = executed(graph)
    assert (left["QLinearConv"], left["QLinearAdd"]) == (4, 1)
    assert not left.keys() & {"Conv", "FusedConv", "Add", "Relu", "Pad"}


def test_a_second_run_finds_nothing_to_do() -> None:
    graph = image_net()
    speed_up(graph)
    assert not any(speed_up(graph).values())


def test_a_pass_that_is_skipped_does_not_run_and_the_next_takes_its_turn() -> None:
    done = speed_up(graph := image_net(), skip=["block_stem", "sum_before_norm"])
    others = {"block_stem", "sum_before_norm", "merge_projections"}
    assert list(done) == [name for name in PASSES if name not in others]
    assert done["pad_stem"] == 1
    assert not any(node.op == "SpaceToDepth" for node in graph.nodes)


def test_a_pass_that_there_is_not_cannot_be_skipped() -> None:
    with pytest.raises(RegistryError, match="there is no speed pass 'pad_stems'") as caught:
        speed_up(image_net(), skip=["pad_stems"])
    assert caught.value.fix.startswith("did you mean 'pad_stem'? known: fold_constants, ")


def test_who_changes_more_than_float_rounding_is_asked_for() -> None:
    differing = {each.name: each.optional for each in PASSES.values() if each.differs}
    assert differing == {"merge_projections": True, "multiply_flat": False}
    assert all(name == each.name == each.run.__name__ for name, each in PASSES.items())
    assert "merge_projections" not in speed_up(image_net())
    assert speed_up(image_net(), also=["merge_projections"])["merge_projections"] == 0


def test_a_file_is_sped_up_into_another_with_its_metadata(tmp_path: Path) -> None:
    model = onnx.load_from_string(written(image_net()))
    onnx.helper.set_model_props(model, {"qdq.target": "onnxruntime"})
    onnx.save(model, tmp_path / "slow.onnx")
    done = speed_up_file(tmp_path / "slow.onnx", tmp_path / "fast.onnx", skip=["block_stem"])
    assert (done["pad_stem"], done["fold_pads"], "block_stem" in done) == (1, 1, False)
    fast = load(tmp_path / "fast.onnx")
    assert metadata(fast) == {"qdq.target": "onnxruntime"}
    assert (fast.ir_version, fast.opset_import) == (model.ir_version, model.opset_import)
    first = (tmp_path / "fast.onnx").read_bytes()
    speed_up_file(tmp_path / "slow.onnx", tmp_path / "fast.onnx", skip=["block_stem"])
    assert (tmp_path / "fast.onnx").read_bytes() == first


def residual_net() -> gs.Graph:
    """A residual block of 32 channels as TensorRT wants it: no pair behind a layer."""
    draw = Sketch("batch", 32, 8, 8)
    x = skip = draw.pair(draw.node("Exp", draw.x), "in", 0.1, 0, np.int8)
    x = draw.node("Relu", draw.integer_conv(x, 32, 32, 3, 3, pads=[1] * 4, bias="float"))
    x = draw.pair(x, "inner", 0.1, 0, np.int8)
    x = draw.node("Add", draw.integer_conv(x, 32, 32, 3, 3, pads=[1] * 4, bias="float"), skip)
    x = draw.pair(draw.node("Relu", x), "out", 0.1, 0, np.int8)
    layers = [draw.integer_conv(x, 32, 32, 1, 1, bias="float") for _ in range(2)]
    return draw.done(*layers)


def test_for_tensorrt_only_readers_are_parted_and_lint_finds_nothing(tmp_path: Path) -> None:
    path, fast = tmp_path / "model.onnx", tmp_path / "fast.onnx"
    path.write_bytes(written(residual_net()))
    done = speed_up_file(path, fast, target="tensorrt")
    assert {name: count for name, count in done.items() if count} == {"split_quantizers": 2}
    assert lint(path, "tensorrt").rows == lint(fast, "tensorrt").rows == ()
    before, after = results(residual_net(), sizes={"batch": 1}), results_of(fast)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_portable_file_keeps_int8_and_runs_in_integers_on_the_cpu(tmp_path: Path) -> None:
    path, fast = tmp_path / "model.onnx", tmp_path / "fast.onnx"
    path.write_bytes(written(image_net()))
    done = speed_up_file(path, fast, target="tensorrt:portable")
    assert (done["fold_pads"], done["round_before_clamps"], done["split_quantizers"]) == (1, 3, 1)
    graph = gs.import_onnx(onnx.load(fast))
    kinds = {each.inputs[2].values.dtype for each in graph.nodes if each.op == "QuantizeLinear"}
    assert kinds == {np.dtype(np.int8)}
    left = executed(graph)
    assert (left["QLinearConv"], left["QLinearAdd"]) == (4, 1)
    assert not left.keys() & {"Conv", "FusedConv", "Add"}
    np.testing.assert_array_equal(results(image_net(), sizes={"batch": 1})[0], results_of(fast)[0])


@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1:UserWarning")
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "senet", "unet"])
def test_portable_nets_run_in_integers_on_the_cpu_and_tensorrt_refuses_nothing(
    tmp_path: Path, name: str
) -> None:
    speed_up_file(
        exported(name, "tensorrt:portable"), tmp_path / "fast.onnx", target="tensorrt:portable"
    )
    report = explain(tmp_path / "fast.onnx")
    assert report.integer_macs > 0.95 * report.macs > 0
    assert lint(tmp_path / "fast.onnx", "tensorrt").counts["error"] == 0


def results_of(path: Path) -> list[np.ndarray]:
    return results(gs.import_onnx(onnx.load(path)), sizes={"batch": 1})


def test_for_tensorrt_runs_only_what_leaves_codes_and_operators_as_it_reads_them() -> None:
    left = PASSES.keys() - set(get("tensorrt:portable").skip_passes)
    assert left == {"fold_constants", "fold_pads", "round_before_clamps", "split_quantizers"}
    assert left - set(get("tensorrt").skip_passes) == left - {"round_before_clamps"}


def test_a_file_tells_for_whom_it_was_rewritten(tmp_path: Path) -> None:
    model = onnx.load_from_string(written(residual_net()))
    onnx.helper.set_model_props(model, {"qdq.target": "tensorrt"})
    onnx.save(model, tmp_path / "m.onnx")
    for target in ("tensorrt", "onnxruntime"):
        speed_up_file(tmp_path / "m.onnx", tmp_path / "n.onnx", target=target)
        assert metadata(load(tmp_path / "n.onnx")) == {"qdq.target": target}


@pytest.mark.parametrize("name", [*TARGETS, *(f"{n}:{v}" for n in VARIANTS for v in VARIANTS[n])])
def test_what_a_target_skips_there_is(name: str) -> None:
    assert set(get(name).skip_passes) <= PASSES.keys()


def test_a_file_older_than_per_channel_pairs_is_refused(tmp_path: Path) -> None:
    draw = Sketch(3, opset=12)
    (tmp_path / "old.onnx").write_bytes(written(draw.done(draw.node("Neg", draw.x))))
    with pytest.raises(GraphError) as caught:
        speed_up_file(tmp_path / "old.onnx", tmp_path / "new.onnx")
    assert str(caught.value) == (
        "opset 12 has no per-channel Q/DQ\n"
        f"  at:  {tmp_path / 'old.onnx'}\n"
        "  fix: convert it to opset 13 with onnx.version_converter"
    )
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_a_graph_of_any_opset_with_several_inputs_and_outputs_goes_through(opset: int) -> None:
    def drawn() -> gs.Graph:
        draw = Sketch("n", 3, 8, 8, opset=opset)
        left = draw.integer_conv(draw.pair(draw.x, "a", 0.1, 0), 16, 3, 3, 3, pads=[1] * 4)
        y = draw.pair(draw.input("y", "n", 3, 8, 8), "b", 0.1, 0)
        right = draw.integer_conv(y, 16, 3, 3, 3, pads=[1] * 4)
        left, right = draw.pair(left, "left", 0.2, 99), draw.pair(right, "right", 0.2, 99)
        total = draw.node("Relu", draw.node("Add", left, right))
        return draw.done(draw.pair(total, "sum", 0.2), draw.node("Neg", right))

    graph = drawn()
    done = speed_up(graph)
    assert (done["clamp_codes"], done["pad_stem"]) == (1, 2)
    pairs = (results(each, LEVELS.ORT_ENABLE_ALL, {"n": 2}) for each in (drawn(), graph))
    for before, after in zip(*pairs, strict=True):
        np.testing.assert_array_equal(before, after)
