"""Which op a module is, or a call of a torch function."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from qdq.nn import QuantJoin, QuantUnary
from qdq.nn.calls import KINDS
from qdq.nn.twins import TWINS

# Calls that multiply by what may be a weight.
PRODUCTS = ("linear", "conv", "conv_transpose", "addmm")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Flatten: "reshape",
    nn.Identity: "identity",
    nn.Dropout: "identity",
    nn.Dropout2d: "identity",
    nn.MaxPool1d: "max_pool",
    nn.MaxPool2d: "max_pool",
    nn.MaxPool3d: "max_pool",
    **dict.fromkeys(BATCH_NORMS, "batch_norm"),
}
_FUNCTIONS: dict[str, str] = {
    **KINDS,
    **dict.fromkeys(("relu", "relu_"), "relu"),
    "relu6": "relu6",
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), "max_pool"),
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze"), "reshape"),
    **dict.fromkeys(("permute", "transpose", "t"), "transpose"),
    **dict.fromkeys(("dropout", "contiguous"), "identity"),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unbind"), "split"),
    **dict.fromkeys(("narrow", "select", "__getitem__", "getitem"), "slice"),
}


def kind_of_module(module: nn.Module) -> str | None:
    """The op a module is as a whole; None for one whose inside is looked at."""
    twin = TWINS.get(type(module))
    kind = getattr(twin or module, "kind", None)
    if twin is not None or isinstance(module, (QuantJoin, QuantUnary, *TWINS.values())):
        return kind
    return _MODULES.get(type(module))


def kind_of_call(func: object) -> str:
    """The op that a call of a torch function is; its own name where that is unknown."""
    called = _name(func)
    return _FUNCTIONS.get(called, called)


def picks_values(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an `interpolate` gives no values but those it is given."""
    mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
    return mode in ("nearest", "nearest-exact")


def constants_of(module: nn.Module, kind: str) -> dict[str, Any]:
    """What the graph says of a layer's weight."""
    weight = getattr(module, "weight", None)
    if kind not in ("conv", "conv_transpose", "linear") or not isinstance(weight, Tensor):
        return {}
    return {"weight": shape_of(kind, weight), "groups": getattr(module, "groups", 1)}


def shape_of(kind: str, weight: Tensor) -> tuple[int, ...]:
    """(out, in / groups, kernel...)."""
    return tuple((weight.transpose(0, 1) if kind == "conv_transpose" else weight).shape)


def _name(func: object) -> str:
    if isinstance(func, str):
        return func
    if func is operator.iadd:
        return "iadd"
    return str(getattr(func, "__name__", type(func).__name__))
