"""Which calls of torch's functions are sites, and the quantized call that stands for one.

A call site is named after its kind and its number in the forward that makes it: `add_0`, `conv_1`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qdq.data import tensors_of
from qdq.nn.einsum import matrix_product
from qdq.nn.operands import QuantOperands
from qdq.nn.quantizer import TensorQuantizer

# Kind -> names of the torch functions and operators that are it.
_CALLED: dict[str, tuple[str, ...]] = {
    "add": ("add", "add_", "iadd", "__add__", "__iadd__", "__radd__"),
    "mul": ("mul", "mul_", "imul", "multiply", "__mul__", "__imul__", "__rmul__"),
    "concat": ("cat", "concat", "concatenate", "stack"),
    "matmul": ("matmul", "bmm", "mm", "__matmul__", "__rmatmul__"),
    "einsum": ("einsum",),
    "addmm": ("addmm",),
    "linear": ("linear",),
    "conv": ("conv1d", "conv2d", "conv3d"),
    "conv_transpose": ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    "avg_pool": tuple(f"{stem}avg_pool{dims}d" for stem in ("", "adaptive_") for dims in (1, 2, 3)),
    "resize": ("interpolate",),
    "attention": ("scaled_dot_product_attention",),
}
KINDS: dict[str, str] = {name: kind for kind, names in _CALLED.items() for name in names}
# What changes its first operand -> what gives the same as a new tensor.
IN_PLACE: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("add_", "iadd", "__iadd__"), torch.add),
    **dict.fromkeys(("mul_", "imul", "__imul__"), torch.mul),
}


@dataclass(frozen=True)
class _Product:
    """Where a function with weights has them.

    Attributes:
        order: its first parameters, of "input", "weight" and "bias", in their order.
        channel_axis: axis of the weight that holds the output channels.
        names: what it calls them, where that is something else.
    """

    order: tuple[str, ...]
    channel_axis: int
    names: Mapping[str, str]


_LAYER = ("input", "weight", "bias")
_PRODUCTS: dict[str, _Product] = {
    "linear": _Product(_LAYER, 0, {}),
    "conv": _Product(_LAYER, 0, {}),
    "conv_transpose": _Product(_LAYER, 1, {}),
    "matmul": _Product(("input", "weight"), 1, {"other": "weight", "mat2": "weight"}),
    "einsum": _Product(("input", "weight"), 1, {}),
    "addmm": _Product(
        ("bias", "input", "weight"), 1, {"input": "bias", "mat1": "input", "mat2": "weight"}
    ),
}


@dataclass(frozen=True)
class CallSite:
    """One call of a torch function in one forward.

    Attributes:
        name: path of the module whose forward makes it, kind and number: `layer1.0.add_0`.
        kind: a key of the functions above.
        inputs: how many tensors are quantized on their way in, weights aside.
        weighted: it multiplies by a constant, which is quantized as a weight.
    """

    name: str
    kind: str
    inputs: int
    weighted: bool = False


def product_operands(
    kind: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The operands of a function with weights, by "input", "weight" and perhaps "bias".

    Returns:
        None for a call that is no plain product of two tensors: `out=`, `beta=`, an einsum, which
        `as_matmul` takes apart.
    """
    product = _PRODUCTS.get(kind)
    if product is None or kwargs.keys() & {"out", "beta", "alpha"}:
        return None
    found = dict(zip(product.order, args, strict=False))
    found |= {product.names.get(name, name): value for name, value in kwargs.items()}
    both = (found.get("input"), found.get("weight"))
    return found if all(isinstance(each, Tensor) for each in both) else None


def tensors_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments, in order, those in lists and tuples too."""
    return tensors_of((*args, *kwargs.values()))


def is_counted(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call has a number: arithmetic on integers has none.

    While a model is traced sizes are integer tensors, and what was `size + 1` calls torch.
    """
    return any(each.is_floating_point() for each in tensors_in(args, kwargs))


def is_plain(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call with these keywords can be a site; `x.add(y, alpha=2)` cannot."""
    return not kwargs.keys() & {"out", "alpha"}


def as_matmul(
    func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]:
    """A call of einsum as the one matrix product it is, or else as it was."""
    product = matrix_product(args, kwargs)
    return (func, args, kwargs) if product is None else (product.run, product.operands, {})


def works(module: nn.Module) -> bool:
    """Whether any quantizer in the module does something now."""
    return any(
        each.on or each.observer is not None
        for each in module.modules()
        if isinstance(each, TensorQuantizer)
    )


def _floating(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [each for each in tensors_in(args, kwargs) if each.is_floating_point()]


def _map_floating(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)([_map_floating(each, change) for each in value])
    if isinstance(value, Mapping):
        return {name: _map_floating(each, change) for name, each in value.items()}
    return value


class QuantCall(nn.Module):
    """A call of a torch function, its tensors fake-quantized on their way in.

    There is no quantizer on its output: who reads that has one. So it is with an average pool,
    called or a module, and with a resize: where something float reads the result, rounding it would
    win nothing.

    Args:
        site: the call it stands for.
    """

    def __init__(self, site: CallSite) -> None:
        super().__init__()
        self.site = site
        self.add_quantizers()

    def add_quantizers(self) -> None:
        """One for each tensor that comes in."""
        self._input_quantizers = nn.ModuleList(TensorQuantizer() for _ in range(self.site.inputs))

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether this is the call it was made for: as many tensors, none to write into.

        Integers do not count: while a model is traced the size that `interpolate` gets is some.
        """
        return is_plain(kwargs) and len(_floating(args, kwargs)) == len(self._input_quantizers)

    def forward(
        self, func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """What `func` gives for these arguments, quantized."""
        quantizers: Iterator[nn.Module] = iter(self._input_quantizers)
        args, kwargs = _map_floating((args, kwargs), lambda x: next(quantizers)(x))
        return func(*args, **kwargs)


class QuantJoinCall(QuantCall):
    """A call that makes one tensor of several, which is fake-quantized too.

    Args:
        site: the call it stands for.
    """

    def add_quantizers(self) -> None:
        """One for each tensor that comes in; the one on the output starts switched off."""
        super().add_quantizers()
        self._output_quantizer = TensorQuantizer()
        self._output_quantizer.active = False

    def forward(
        self, func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """What `func` gives for these arguments, quantized, and rounded where that is asked for."""
        return self._output_quantizer(super().forward(func, args, kwargs))  # type: ignore[no-any-return]


class QuantProduct(QuantOperands, QuantCall):
    """A call with weights that are constant: `F.conv2d(x, self.weight)`, `x @ self.table`.

    Args:
        site: a function with weights.
    """

    @property
    def channel_axis(self) -> int:  # type: ignore[override]
        """Axis of the weight that holds the output channels."""
        return _PRODUCTS[self.site.kind].channel_axis

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the function multiplies two tensors here."""
        return product_operands(self.site.kind, args, kwargs) is not None

    def forward(
        self, func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """What `func` gives for these arguments, input, weight and bias quantized."""
        found = product_operands(self.site.kind, args, kwargs) or {}
        order = _PRODUCTS[self.site.kind].order
        operands = self.quantized(found["input"], found["weight"], found.get("bias"))
        given = dict(zip(_LAYER, operands, strict=True))
        taken = {*order, *_PRODUCTS[self.site.kind].names}
        others = {name: value for name, value in kwargs.items() if name not in taken}
        first = [given[name] for name in order]
        return self._output_quantizer(func(*first, *args[len(order) :], **others))  # type: ignore[no-any-return]
