"""One forward of an eager model as a neutral op graph: recorded from inputs, or traced by fx."""

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from qdq.data import call, tensors_of
from qdq.nn import QuantJoin, QuantPool, TensorQuantizer
from qdq.nn.calls import KINDS, is_counted, product_operands, tensors_in
from qdq.nn.twins import TWINS
from qdq.targets.opgraph import Op, OpGraph

_PRODUCTS = ("linear", "conv", "conv_transpose", "addmm")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

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
}


def kind_of_module(module: nn.Module) -> str | None:
    """The op a module is as a whole; None for one whose inside is looked at."""
    twin = TWINS.get(type(module))
    kind = getattr(twin or module, "kind", None)
    if twin is not None or isinstance(module, (QuantJoin, QuantPool, *TWINS.values())):
        return kind
    return _MODULES.get(type(module))


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
        recorder.varying.update(given)
        with torch.no_grad(), recorder:
            result = call(model, example_inputs)
    made = tuple(recorder.number(t) for t in tensors_of(result))
    return OpGraph(tuple(recorder.ops), made, given)


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
        self.varying: set[int] = set()  # the tensors that depend on the model's inputs

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
            if not self.varying.isdisjoint(read):
                self.varying.update(numbers)
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
            kind = _kind(func, args, kwargs)
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
        """A call that may be a site: of a product with constants only the input is read."""
        found = product_operands(kind, args, kwargs)
        if found and self._are_constant(found):
            weight, layer = found["weight"], "linear" if kind in ("matmul", "addmm") else kind
            if layer == kind or weight.dim() == 2:
                shape = _shape(layer, weight if layer == kind else weight.t())
                groups = kwargs.get("groups", args[6] if kind == "conv" and len(args) > 6 else 1)
                self.note(name, layer, found["input"], result, weight=shape, groups=groups)
                return
        floating = all(each.is_floating_point() for each in tensors_in(args, kwargs))
        plain = kind not in _PRODUCTS and _is_plain(kwargs)
        prefix = "" if plain and (floating or kind == "attention") else "other_"
        self.note(name, prefix + kind, (args, kwargs), result)

    def _are_constant(self, found: Mapping[str, Any]) -> bool:
        others = (found["weight"], found.get("bias"))
        return not any(
            isinstance(each, Tensor) and self.number(each) in self.varying for each in others
        )

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
                self.note(name, kind, (args, kwargs), result, **_constants(module, kind))

        first = module.register_forward_pre_hook(enter)
        second = module.register_forward_hook(leave, with_kwargs=True)
        try:
            yield
        finally:
            first.remove()
            second.remove()


def follow(model: nn.Module, example_inputs: object) -> OpGraph | None:
    """One forward: recorded with these inputs, or traced where they are None."""
    return trace(model) if example_inputs is None else record(model, example_inputs)


def trace(model: nn.Module) -> OpGraph | None:
    """The op graph from fx's symbolic trace, without inputs; None where fx cannot follow."""
    whole = kind_of_module(model)
    if whole is not None:  # fx would look inside the root, whatever it is
        return OpGraph((Op("", whole, (0,), (1,)),), (1,), (0,))
    try:
        graph = _Tracer().trace(model)
    except Exception:  # fx raises whatever the model's own code raises on a proxy
        return None
    numbers = {node: index for index, node in enumerate(graph.nodes)}
    ops: list[Op] = []
    outputs: tuple[int, ...] = ()
    inputs: list[int] = []
    sizes: set[fx.Node] = set()
    calls: Counter[str] = Counter()
    for node in graph.nodes:
        before = _read(node)
        if _is_size(node) or (before and sizes.issuperset(before)):
            sizes.add(node)  # the recorder never sees numbers either
            continue
        read = tuple(numbers[each] for each in before if each not in sizes)
        if node.op == "placeholder":
            inputs.append(numbers[node])
        elif node.op == "output":
            outputs = read
        elif node.op == "call_module":
            module = model.get_submodule(node.target)
            kind = kind_of_module(module) or type(module).__name__
            more = _constants(module, kind)
            ops.append(Op(node.target, kind, read, (numbers[node],), **more))
        elif node.op in ("call_function", "call_method"):
            kind = _kind(node.target, node.args, node.kwargs)
            path, call = _path(node)
            stem, own = f"{path}.{kind}".lstrip("."), f"{call}.{kind}"
            plain = kind not in (*_PRODUCTS, *KINDS.values()) or _is_plain(node.kwargs)
            if kind in _PRODUCTS and all(each.op == "get_attr" for each in before[1:]):
                read = read[:1]
            elif kind in _PRODUCTS:
                plain = False
            variant = kind if plain else f"other_{kind}"
            ops.append(Op(f"{stem}_{calls[own]}", variant, read, (numbers[node],)))
            calls[own] += 1
    return OpGraph(tuple(ops), outputs, tuple(inputs))


def _path(node: fx.Node) -> tuple[str, str]:
    """The module in whose forward the node was traced, and a key of that one call of it."""
    stack = node.meta.get("nn_module_stack") or {}
    key, (path, _) = list(stack.items())[-1] if stack else ("", ("", None))
    return str(path), str(key)


def _kind(func: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    called = _name(func)
    if called == "interpolate":
        mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
        return "resize_nearest" if mode == "nearest" else "resize"
    return _FUNCTIONS.get(called, called)


def _is_plain(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call with these keywords can be a site; `x.add(y, alpha=2)` cannot."""
    return not kwargs.keys() & {"out", "alpha"}


def _constants(module: nn.Module, kind: str) -> dict[str, Any]:
    """What the graph says of a layer's weight."""
    weight = getattr(module, "weight", None)
    if kind not in ("conv", "conv_transpose", "linear") or not isinstance(weight, Tensor):
        return {}
    return {"weight": _shape(kind, weight), "groups": getattr(module, "groups", 1)}


def _shape(kind: str, weight: Tensor) -> tuple[int, ...]:
    return tuple((weight.transpose(0, 1) if kind == "conv_transpose" else weight).shape)


def _read(node: fx.Node) -> list[fx.Node]:
    """The nodes among a node's arguments, in order, as often as they stand there."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _is_size(node: fx.Node) -> bool:
    """Whether this asks a tensor for its shape or the like."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if kind_of_module(m) is not None:
            return True
        return m.__module__.startswith("torch.nn") and not any(True for _ in m.children())


def _name(func: object) -> str:
    if isinstance(func, str):
        return func
    if func is operator.iadd:
        return "iadd"
    return str(getattr(func, "__name__", type(func).__name__))
