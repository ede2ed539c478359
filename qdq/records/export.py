"""What was written, and how its sites are called there."""

from dataclasses import dataclass, field

from qdq.records.base import Record
from qdq.records.decisions import told_ratio


@dataclass(frozen=True)
class SiteRow:
    """One site in the ONNX file.

    Attributes:
        site: its name in the model.
        tensor: the dequantized tensor that leaves it in the file.
        codes: type of its codes ("uint8").
        scale: its scale, or the smallest of several.
        scale_max: the largest of several.
        zero_point: its zero point, or the first of several.
        channels: how many scales it has.
    """

    site: str
    tensor: str
    codes: str
    scale: float
    scale_max: float
    zero_point: int
    channels: int


@dataclass(frozen=True)
class ExportReport(Record):
    """One ONNX file.

    Attributes:
        path: where it is.
        target: the runtime it is made for.
        opset: of the default domain, the only one.
        bytes: size of the file, with that of `data`.
        sha256: of the file.
        rows: one per active site.
        passes: name of each speed pass that ran -> how many places it rewrote.
        data: the file beside it that holds the weights; empty where it has them itself.
        predicted: time of one run over that in float, by the target's table of costs; None where
            it cannot be told.
    """

    path: str
    target: str
    opset: int
    bytes: int
    sha256: str
    rows: tuple[SiteRow, ...]
    passes: dict[str, int] = field(default_factory=dict)
    data: str = ""
    predicted: float | None = None

    def __str__(self) -> str:
        written = (
            f"{self.path}: {self.target}, opset {self.opset}, {len(self.rows)} sites, "
            f"{self.bytes:,} bytes"
        )
        return "\n".join([written, *told_ratio(self.predicted)])
