"""What one run of a recipe came to."""

from dataclasses import dataclass

from qdq.records.base import Record
from qdq.records.calibration import CalibrationReport
from qdq.records.decisions import FuseReport, InsertReport
from qdq.records.export import ExportReport
from qdq.records.pictures import SitePicture
from qdq.records.ranking import SensitivityReport
from qdq.records.training import FinetuneReport
from qdq.records.validation import ValidationReport


@dataclass(frozen=True)
class SummaryRow:
    """One line of the final table.

    Attributes:
        name: "float" or the target.
        file: its ONNX file.
        torch: accuracy in torch: of the float model, or of the fake-quantized one; 0..1.
        onnxruntime: accuracy of the file in onnxruntime, 0..1.
        agreement: share of equal top-1 classes between the two, 0..1.
        sqnr_db: of the file against the float model, dB; None for the float file itself.
        bytes: size of the file.
        size_ratio: of it over the float file.
        integer_layers: layers with weights that run in integers in onnxruntime.
        layers: all layers with weights.
    """

    name: str
    file: str
    torch: float | None
    onnxruntime: float | None
    agreement: float
    sqnr_db: float | None
    bytes: int
    size_ratio: float
    integer_layers: int
    layers: int


@dataclass(frozen=True)
class RunReport(Record):
    """Every record of a run; latency is kept apart, so that equal runs give equal bytes.

    Attributes:
        recipe: its name.
        samples: how many test samples the accuracy is measured on.
        rows: the final table: float, then one row per target.
        fuse: what was folded.
        insert: decisions per target.
        calibrate: ranges.
        export: files.
        validation: comparisons.
        sensitivity: what each layer's quantization costs; None where it was not measured.
        finetune: how the weights were trained; None where they were not.
        pictures: one per activation site; empty where none were made.
    """

    recipe: str
    samples: int
    rows: tuple[SummaryRow, ...]
    fuse: FuseReport
    insert: dict[str, InsertReport]
    calibrate: CalibrationReport
    export: dict[str, ExportReport]
    validation: dict[str, ValidationReport]
    sensitivity: SensitivityReport | None = None
    finetune: FinetuneReport | None = None
    pictures: tuple[SitePicture, ...] = ()
