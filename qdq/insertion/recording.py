"""One forward of an eager model, recorded as a neutral op graph."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qdq.data import call, tensors_of
from qdq.insertion.kinds import (
    PRODUCTS,
    constants_of,
    kind_of_call,
    kind_of_module,
    picks_values,
    shape_of,
)
from qdq.nn import TensorQuantizer
from qdq.nn.calls import KINDS, is_counted, is_plain, product_operands, tensors_in
from qdq.nn.einsum import matrix_product
from qdq.targets.opgraph import Op, OpGraph


def record(model: nn.Module, example_inputs: object) -> OpGraph:
    """Run the model once, without gradients, and note every op.

    Control flow takes the way these inputs take. Quantizers pass x on, with a range or without.

    Args:
        model: any eager model; it is left as it was.
        example_inputs: a tensor, a tuple, or a dict of keywords.

    Raises:
        InputError: the model does not take these inputs.
    """
    recorder = _Recorder()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(recorder.follow(name, module))
            if isinstance(module, TensorQuantizer):
                hooks.enter_context(_passing(module))
        given = tuple(recorder.number(t) for t in tensors_of(example_inputs))
        with torch.no_grad(), recorder:
            result = call(model, example_inputs)
    return recorder.graph(given, tuple(recorder.number(t) for t in tensors_of(result)))


@contextmanager
def _passing(quantizer: TensorQuantizer) -> Iterator[None]:
    """The quantizer gives x itself, as while calibration looks on."""
    before, quantizer.observer = quantizer.observer, lambda _site, _x: None
    try:
        yield
    finally:
        quantizer.observer = before


class _Recorder(TorchFunctionMode):
    """Notes function calls of the user's code and whole calls of modules with a known kind."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        # The modules we are in, and how often each kind of function was called there.
        self._path: list[tuple[str, Counter[str]]] = [("", Counter())]
        self._inside_known = 0  # > 0: within a module that was or will be noted as one op
        self._numbers: dict[int, int] = {}
        self._keep: list[Tensor] = []  # a freed tensor's id could be given to another
        # Place of a product -> the factors that may be constant, and what it is if they are.
        self._weighted: dict[int, tuple[tuple[int, ...], Op]] = {}

    def graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> OpGraph:
        """All that was noted; now it is known which factors are constants."""
        noted = OpGraph(tuple(self.ops), outputs, inputs)
        ops = list(self.ops)
        for place, (factors, weighted) in self._weighted.items():
            if noted.varying.isdisjoint(factors):
                ops[place] = weighted
        shapes = {number: tuple(each.shape) for number, each in enumerate(self._keep, 1)}
        return replace(noted, ops=tuple(ops), shapes=shapes)

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; a new one for a tensor not seen yet."""
        if id(tensor) not in self._numbers:
            self._renumber(tensor)
        return self._numbers[id(tensor)]

    def _renumber(self, tensor: Tensor) -> int:
        self._keep.append(tensor)
        self._numbers[id(tensor)] = len(self._keep)
        return len(self._keep)

    def note(self, name: str, kind: str, inputs: object, result: object, **more: Any) -> None:
        """One op; a result that is its own input, an in-place op, counts as a new tensor."""
        made = tensors_of(result)
        if made:
            read = tuple(self.number(t) for t in tensors_of(inputs))
            numbers = tuple(self._renumber(t) for t in made)
            self.ops.append(Op(name, kind, read, numbers, made[0].dim(), **more))

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._inside_known:
            kind = kind_of_call(func)
            if kind in KINDS.values() and not is_counted(args, kwargs):
                kind = f"integer_{kind}"
            site = self._call_site(kind)
            made = args[0] if kind == "__setitem__" else result
            if kind in KINDS.values():
                self._note_call(site, kind, args, kwargs, made)
            else:
                self.note(site, kind, (args, kwargs), made)
        return result

    def _note_call(
        self, name: str, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """A call that may be a site."""
        product = matrix_product(args, kwargs) if kind == "einsum" else None
        found = product_operands(kind, args, kwargs)
        if product is not None:
            kind, found = "matmul", dict(zip(("input", "weight"), product.given, strict=True))
        floating = all(each.is_floating_point() for each in tensors_in(args, kwargs))
        plain = kind not in (*PRODUCTS, "einsum") and is_plain(kwargs)
        kind = "resize_nearest" if kind == "resize" and picks_values(args, kwargs) else kind
        prefix = "" if plain and (floating or kind == "attention") else "other_"
        self.note(name, prefix + kind, (args, kwargs), result)
        if found is not None:
            weight = found["weight"] if product is None else product.operands[1]
            groups = kwargs.get("groups", args[6] if kind == "conv" and len(args) > 6 else 1)
            self._note_weighted(kind, found, weight, groups)

    def _note_weighted(
        self, kind: str, found: Mapping[str, Any], weight: Tensor, groups: int
    ) -> None:
        """What the last op is if all it multiplies by is constant: then only its input is read."""
        layer = "linear" if kind in ("matmul", "addmm") else kind
        if layer != kind and weight.dim() != 2:
            return
        factors = tensors_of((found["weight"], found.get("bias")))
        op = replace(
            self.ops[-1],
            kind=layer,
            inputs=(self.number(found["input"]),),
            weight=shape_of(layer, weight if layer == kind else weight.t()),
            groups=groups,
        )
        self._weighted[len(self.ops) - 1] = (tuple(self.number(each) for each in factors), op)

    def _call_site(self, kind: str) -> str:
        path, calls = self._path[-1]
        calls[kind] += 1
        return f"{path}.{kind}_{calls[kind] - 1}".lstrip(".")

    @contextmanager
    def follow(self, name: str, module: nn.Module) -> Iterator[None]:
        """Hooks that tell when the forward enters and leaves this module."""
        kind = kind_of_module(module)

        def enter(_module: nn.Module, _args: object) -> None:
            self._path.append((name, Counter()))
            self._inside_known += kind is not None

        def leave(_module: nn.Module, args: object, kwargs: object, result: object) -> None:
            self._path.pop()
            self._inside_known -= kind is not None
            if kind is not None and not self._inside_known:
                self.note(name, kind, (args, kwargs), result, **constants_of(module, kind))

        first = module.register_forward_pre_hook(enter)
        second = module.register_forward_hook(leave, with_kwargs=True)
        try:
            yield
        finally:
            first.remove()
            second.remove()
