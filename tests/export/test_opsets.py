"""Which opsets are written, and by whom."""

from typing import Any

import onnx
import pytest

from qdq.errors import ExportError
from qdq.export.opsets import choose_exporter, newest_opset


def test_the_newest_opset_is_known_to_onnx_and_is_past_torch_export_s_first() -> None:
    assert 21 <= newest_opset() <= onnx.defs.onnx_opset_version()


@pytest.mark.parametrize(
    ("opset", "exporter"), [(13, "torchscript"), (17, "torchscript"), (18, "dynamo")]
)
def test_the_exporter_that_writes_an_opset_is_chosen(opset: int, exporter: str) -> None:
    assert choose_exporter(opset) == choose_exporter(opset, exporter) == exporter


@pytest.mark.parametrize("opset", [12, newest_opset() + 1, 17.0, "13"])
def test_an_opset_nobody_here_knows_is_refused(opset: Any) -> None:
    with pytest.raises(ExportError) as caught:
        choose_exporter(opset)
    assert str(caught.value) == (
        f"opset={opset!r} is outside 13..{newest_opset()}\n"
        f"  fix: pass opset=13: per-channel Q/DQ begins there, and {newest_opset()} is the newest "
        "that onnx and onnxruntime know here"
    )


@pytest.mark.parametrize(("opset", "exporter"), [(17, "dynamo"), (18, "torchscript")])
def test_an_exporter_that_does_not_write_the_opset_is_refused(opset: int, exporter: str) -> None:
    with pytest.raises(ExportError) as caught:
        choose_exporter(opset, exporter)
    assert str(caught.value) == (
        f"the exporter '{exporter}' does not write opset {opset}\n"
        "  fix: pass exporter=\"auto\", which takes 'torchscript' below opset 18 and 'dynamo' from "
        "there up"
    )


def test_a_misspelled_exporter_is_told_the_nearest_name() -> None:
    with pytest.raises(ExportError) as caught:
        choose_exporter(13, "torchscrip")
    assert str(caught.value) == (
        "there is no exporter 'torchscrip'\n"
        "  fix: did you mean 'torchscript'? known: auto, dynamo, torchscript"
    )
