"""The form of a file: everything about it that the model does not say."""

from collections.abc import Collection
from dataclasses import dataclass

from qdq.errors import ExportError, RegistryError
from qdq.export.opsets import OLDEST_OPSET, choose_exporter
from qdq.graph.precision import HALVES
from qdq.graph.speed import PASSES
from qdq.registry import choose_one_of

PRECISIONS = ["float32", *HALVES]
INPUTS = ["float", "uint8", "uint8_nhwc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm:
    """How a model is written.

    Attributes:
        opset: of the default domain, the only one.
        exporter: "torchscript", "dynamo", or "auto": the one that writes this opset.
        precision: "float32", "float16" or "bfloat16": type of what is not quantized, inputs and
            outputs included.
        input: "float"; "uint8": the codes of the inputs, which then pass no Q; "uint8_nhwc": those
            with the channels last.
        external_data: weights go into a file beside it; None: where they are too large for one.
        skip_passes: speed passes of the target that shall not run.
    """

    opset: int = OLDEST_OPSET
    exporter: str = "auto"
    precision: str = "float32"
    input: str = "float"
    external_data: bool | None = None
    skip_passes: Collection[str] = ()

    def __post_init__(self) -> None:
        choose_exporter(self.opset, self.exporter)
        for name, known in (("precision", PRECISIONS), ("input", INPUTS)):
            value = getattr(self, name)
            if value not in known:
                raise ExportError(f"{name}={value!r} is not known", fix=choose_one_of(value, known))
        if self.external_data not in (None, True, False):
            raise ExportError(
                f"external_data={self.external_data!r} is not known",
                fix="pass True, False or None",
            )
        if isinstance(self.skip_passes, str):
            raise ExportError(
                f"skip_passes={self.skip_passes!r} is no list of names",
                fix=f"pass skip_passes=[{self.skip_passes!r}]",
            )
        for name in self.skip_passes:
            if name not in PASSES:
                raise RegistryError(
                    f"there is no speed pass {name!r}", fix=choose_one_of(name, list(PASSES))
                )
