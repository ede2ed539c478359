"""QuantDescriptor: how one tensor shall be quantized, a frozen value checked at birth."""

import importlib
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qdq.compat.pytorch_quantization.utils.quant_logging import logger

NumBits: TypeAlias = int | tuple[int, int]
Axis: TypeAlias = int | tuple[int, ...] | list[int] | None
Keywords: TypeAlias = dict[str, Any]

E4M3 = (4, 3)
CALIB_METHODS = ("max", "histogram")


@dataclass(frozen=True, eq=False, repr=False)
class QuantDescriptor:
    """How one tensor shall be quantized. All but the first two are keywords.

    Attributes:
        num_bits: width of a code, or the tuple (4, 3): eight-bit floats of type E4M3.
        name: of the tensor, for people.
        fake_quant: quantize and dequantize at once; otherwise give the codes.
        axis: the axes that KEEP a range per entry; None: one range in all.
        amax: largest |x|, in the unit of x, kept as a float32 array; None: not known yet.
        learn_amax: the range is a parameter that training moves; needs axis=None.
        scale_amax: a factor on amax wherever it is used.
        calib_method: "max" or "histogram", the calibrator that the quantizer gets. Another string
            is taken with a warning: such a quantizer stays dynamic until it is given an amax.
        unsigned: codes start at 0.
        narrow_range: the lowest signed code is left out.

    Raises:
        TypeError: a value of the wrong type, an unknown keyword, `axis` with `learn_amax`.
        ValueError: a negative number of bits.
    """

    num_bits: NumBits = 8
    name: str | None = None
    _: KW_ONLY
    fake_quant: bool = True
    axis: Axis = None
    amax: float | list[Any] | NDArray[np.float32] | None = None
    learn_amax: bool = False
    scale_amax: float | None = None
    calib_method: str = "max"
    unsigned: bool = False
    narrow_range: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "QuantDescriptor":
        """Refuse unknown keywords in the words that callers look for."""
        unused = sorted(kwargs.keys() - {field.name for field in fields(cls)})
        if unused:
            raise TypeError(f"Unused keys: {unused}; the descriptor does not know them")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        _check_num_bits(self.num_bits)
        if not isinstance(self.name, str | None):
            raise TypeError(f"name must be a string or None, got {self.name!r}")
        if self.amax is not None:
            if not isinstance(self.amax, float | list | np.ndarray):
                kind = type(self.amax).__name__
                raise TypeError(f"amax must be float, list or ndarray, got {kind}")
            object.__setattr__(self, "amax", np.array(self.amax, dtype=np.float32))
        if self.learn_amax and self.axis is not None:
            raise TypeError(
                f"axis is ignored and must be None when learn_amax is true, got {self.axis}"
            )
        if self.calib_method not in CALIB_METHODS:
            logger.warning(
                "calib_method %r is none of %s, so the quantizer will have no calibrator, and take "
                "its range anew from every tensor until amax is set. 'entropy', 'mse' and "
                "'percentile' are for load_calib_amax, after calib_method='histogram'",
                self.calib_method,
                CALIB_METHODS,
            )

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal, amax element by element."""
        if not isinstance(other, QuantDescriptor):
            return NotImplemented
        return _keywords(self) == _keywords(other)

    __hash__ = None  # type: ignore[assignment]  # as of every class with an == of its own

    def __repr__(self) -> str:
        """For example `w: (unsigned 4bit fake axis=0 amax=[1. 2.] full_range)`."""
        head = "QuantDescriptor" if self.name is None else f"{self.name}: "
        sign = "unsigned " if self.unsigned else ""
        kind = "fake" if self.fake_quant else "real"
        axis = " per-tensor" if self.axis is None else self.axis
        known = "" if self.amax is None else f" amax={self.amax} full_range"
        learned = " learn_amax" if self.learn_amax else ""
        factor = "" if self.scale_amax is None else f" scale_amax={self.scale_amax}"
        return f"{head}({sign}{self.num_bits}bit {kind} axis={axis}{known}{learned}{factor})"

    def dict(self) -> Keywords:
        """num_bits and name, and whatever else is not at its default.

        Returns:
            Keywords: `QuantDescriptor(**d.dict())` equals d. amax is a number or nested lists.
        """
        default = {field.name: field.default for field in fields(self)}
        default |= {"num_bits": ..., "name": ...}
        return {key: value for key, value in _keywords(self).items() if value != default[key]}

    def to_yaml(self) -> str:
        """`dict()` as YAML, tuples as lists.

        Raises:
            ModuleNotFoundError: PyYAML is not installed.
        """
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.dict().items()
        }
        return str(_yaml().safe_dump(plain))

    @classmethod
    def from_yaml(cls, yaml_str: str) -> "QuantDescriptor":
        """The descriptor that `to_yaml` wrote; lists become tuples again.

        Args:
            yaml_str: a YAML mapping of the constructor's arguments.

        Raises:
            ModuleNotFoundError: PyYAML is not installed.
        """
        read = dict(_yaml().safe_load(yaml_str))
        for key in ("num_bits", "axis"):
            if isinstance(read.get(key), list):
                read[key] = tuple(read[key])
        return cls(**read)


def _keywords(descriptor: QuantDescriptor) -> Keywords:
    """All fields, amax as a number or nested lists."""
    found = {field.name: getattr(descriptor, field.name) for field in fields(descriptor)}
    if isinstance(descriptor.amax, np.ndarray):
        found["amax"] = descriptor.amax.tolist()
    return found


def _check_num_bits(num_bits: Any) -> None:
    if isinstance(num_bits, tuple) and num_bits == E4M3:
        return
    if not isinstance(num_bits, int):  # "postive": callers match on NVIDIA's spelling
        raise TypeError(f"num_bits must be a postive integer or tuple (4,3), got {num_bits!r}")
    if num_bits < 0:
        raise ValueError(f"num_bits must be >= 0, got {num_bits}")
    if num_bits == 0:
        logger.error("num_bits is 0: there is no code at all. Pass num_bits=8.")


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "a QuantDescriptor becomes YAML only where PyYAML is installed: pip install pyyaml",
            name="yaml",
        ) from missing


QUANT_DESC_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8)
QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8, unsigned=True)
QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
