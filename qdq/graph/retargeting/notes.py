"""What our files note of themselves in their metadata, and reading it without trusting it."""

import json
from collections.abc import Mapping

from onnx import ModelProto

from qdq.graph.files import metadata
from qdq.graph.retargeting.grids import Range

RANGES = "qdq.ranges"
_LONGEST = 1 << 24  # characters; a range takes some sixty
_LARGEST = 3.4e38  # of a float32, or nearly


def noted_ranges(model: ModelProto) -> dict[str, Range]:
    """Site -> (least, largest) value, as its calibration chose them; empty where nothing is noted.

    What is no such note is as good as none.
    """
    text = metadata(model).get(RANGES, "")
    if not text or len(text) > _LONGEST:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {site: (each[0], each[1]) for site, each in found.items() if _is_range(each)}


def ranges_note(ranges: Mapping[str, Range]) -> str:
    """The same as text, exact."""
    return json.dumps({site: list(ranges[site]) for site in sorted(ranges)})


def _is_range(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    numbers = all(type(each) in (int, float) and abs(each) <= _LARGEST for each in value)
    return numbers and value[0] <= value[1]
