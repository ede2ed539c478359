"""Every error qdq raises on purpose: what went wrong, at which layer or file, how to fix it.

QdqError
├── SpecError         a QuantSpec or a range that cannot exist
├── RegistryError     a name nobody registered, or one registered twice
├── PolicyError       a pattern that fits nothing, or cannot be read
├── InputError        data, a batch or a file of the user's that cannot be used
├── StepError         a step called in the wrong state (training mode, nothing inserted, ...)
├── CalibrationError  a range that is missing or cannot be chosen
├── TrainingError     a training that went to NaN or infinity
├── ExportError       the model could not be written as the ONNX graph that was asked for
├── GraphError        an ONNX file that cannot be read or lacks what a pass requires
└── RecipeError       a recipe file with a wrong key, value or path
"""


class QdqError(Exception):
    """Root of the tree; its text is `what`, then where it happened, then the fix.

    Args:
        what: one sentence, what went wrong.
        at: the layer, site or file it concerns; empty where there is none.
        fix: what the user can do about it; empty where nothing can be done.
    """

    def __init__(self, what: str, *, at: str = "", fix: str = "") -> None:
        self.what, self.at, self.fix = what, at, fix
        lines = [what, at and f"  at:  {at}", fix and f"  fix: {fix}"]
        super().__init__("\n".join(line for line in lines if line))


class SpecError(QdqError):
    """A QuantSpec or a range that cannot exist."""


class RegistryError(QdqError):
    """A name nobody registered, or one registered twice."""


class PolicyError(QdqError):
    """A pattern that fits nothing, or cannot be read."""


class InputError(QdqError):
    """Data, a batch or a file of the user's that cannot be used."""


class StepError(QdqError):
    """A step called in the wrong state."""


class CalibrationError(QdqError):
    """A range that is missing or cannot be chosen."""


class TrainingError(QdqError):
    """A training that went to NaN or infinity."""


class ExportError(QdqError):
    """The model could not be written as the ONNX graph that was asked for."""


class GraphError(QdqError):
    """An ONNX file that cannot be read or lacks what a pass requires."""


class RecipeError(QdqError):
    """A recipe file with a wrong key, value or path."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
