"""QuantSpec: the integer grid of one quantizer, a frozen value checked at birth."""

from dataclasses import dataclass

from qdq.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """Which integers a tensor may take, and how many scales it has.

    Attributes:
        bits: width of a code, 2..16.
        signed: codes are two's complement (int8) or start at 0 (uint8).
        symmetric: zero point 0; otherwise the range [amin, amax] has a zero point of its own.
        narrow: a signed grid leaves out its lowest code, so that codes mirror at 0.
        keep_axis: this axis keeps one scale per entry; None: one scale in all.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow: bool = False
    keep_axis: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 16:
            raise SpecError(f"bits={self.bits!r} is outside 2..16", fix="pass bits=8")
        if self.narrow and not self.signed:
            raise SpecError(
                "narrow=True needs a signed grid: an unsigned one has no lowest code to mirror",
                fix="pass signed=True, or leave narrow out",
            )
        if self.keep_axis is not None and not isinstance(self.keep_axis, int):
            raise SpecError(
                f"keep_axis={self.keep_axis!r} is no axis",
                fix="pass one int (0 for Conv and Linear weights), or None",
            )

    @property
    def qmin(self) -> int:
        """Lowest code."""
        return (-(2 ** (self.bits - 1)) + int(self.narrow)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Highest code."""
        return (1 << (self.bits - int(self.signed))) - 1

    def __str__(self) -> str:
        """Short form for reports: `int8 symmetric per-channel(0)`."""
        sign = "int" if self.signed else "uint"
        form = "symmetric" if self.symmetric else "affine"
        axis = "per-tensor" if self.keep_axis is None else f"per-channel({self.keep_axis})"
        return f"{sign}{self.bits} {form} {axis}"
