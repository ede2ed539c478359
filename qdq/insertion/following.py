"""One forward of an eager model as a neutral op graph: recorded from inputs, or traced by fx."""

from collections import Counter

from torch import fx, nn

from qdq.insertion.kinds import PRODUCTS, constants_of, kind_of_call, kind_of_module, picks_values
from qdq.insertion.recording import record
from qdq.nn.calls import KINDS, is_plain
from qdq.targets.opgraph import Op, OpGraph


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
            more = constants_of(module, kind)
            ops.append(Op(node.target, kind, read, (numbers[node],), **more))
        elif node.op in ("call_function", "call_method"):
            kind = kind_of_call(node.target)
            path, call = _path(node)
            stem, own = f"{path}.{kind}".lstrip("."), f"{call}.{kind}"
            plain = kind not in (*PRODUCTS, *KINDS.values()) or is_plain(node.kwargs)
            if kind in PRODUCTS and all(each.op == "get_attr" for each in before[1:]):
                read = read[:1]
            elif kind in (*PRODUCTS, "einsum"):  # the letters of an einsum want ranks
                plain = False
            elif kind == "resize" and picks_values(node.args, node.kwargs):
                kind = "resize_nearest"
            variant = kind if plain else f"other_{kind}"
            ops.append(Op(f"{stem}_{calls[own]}", variant, read, (numbers[node],)))
            calls[own] += 1
    return OpGraph(tuple(ops), outputs, tuple(inputs))


def _path(node: fx.Node) -> tuple[str, str]:
    """The module in whose forward the node was traced, and a key of that one call of it."""
    stack = node.meta.get("nn_module_stack") or {}
    key, (path, _) = list(stack.items())[-1] if stack else ("", ("", None))
    return str(path), str(key)


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
