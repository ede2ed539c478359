"""How many calls of each kind a model makes, and how many of them are quantized."""

import re
from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import qdq

KINDS = ("conv", "convtranspose", "linear", "matmul", "attention", "add", "mul", "cat", "avgpool",
         "mean", "interpolate", "embedding", "lstm")  # fmt: skip
SAME = {"iadd": "add", "imul": "mul", "bmm": "matmul", "adaptiveavgpool": "avgpool",
        "concat": "cat", "stack": "cat", "addmm": "linear"}  # fmt: skip


class Calls(TorchFunctionMode):
    """Counts calls by kind, a module's and a function's; one made inside another does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count a call; a sum or product only of two float tensors."""
        word = kind(getattr(func, "__name__", ""))
        floats = [
            each for each in args[:2] if isinstance(each, Tensor) and each.is_floating_point()
        ]
        self.count[word] += word not in ("add", "mul") or len(floats) == 2
        return func(*args, **kwargs or {})


def kind(name: str) -> str:
    """conv2d, QuantConv1d -> conv; add_3, __iadd__ -> add."""
    word = re.sub(r"(?<=\d)d$|[\d_]|^quant", "", name.lower())
    return "attention" if "attention" in word else SAME.get(word, word)


def quantized_of_found(model: nn.Module, found: Counter[str]) -> dict[str, list[int]]:
    """[with an active quantizer, called in one forward of the float model], by kind."""
    owners = {site.rpartition(".")[0] for site, each in qdq.quantizers(model).items() if each.on}
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    made = Counter(kind(types.get(owner, owner.rpartition(".")[2])) for owner in owners)
    return {each: [made[each], found[each]] for each in KINDS if found[each] or made[each]}


def added(rows: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """The sums over several models."""
    sums = {each: [sum(row.get(each, (0, 0))[i] for row in rows) for i in (0, 1)] for each in KINDS}
    return {each: both for each, both in sums.items() if any(both)}


def shown(value: Any) -> Any:
    """Counts as "conv 3/4, add 0/1"; all else as it is."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{each} {made}/{found}" for each, (made, found) in value.items())
