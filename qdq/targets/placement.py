"""Which sites a target switches on, and why: pure, on the neutral op graph.

Rule ids: T.. are TensorRT's, O.. are onnxruntime's CPU provider's.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from qdq.records.decisions import Decision
from qdq.sites import is_weight
from qdq.targets.costs.choices import slower_in_integers
from qdq.targets.opgraph import CLAMPS, PARTING, POINTWISE, TRANSPARENT, WEIGHTED, Op, OpGraph
from qdq.targets.target import Target

# Modules that run in integers, and their roles.
Integer: TypeAlias = Mapping[str, Sequence[str]]


_ENOUGH = 16  # channels, or rows and columns, from which integer kernels always pay (T18, T19)
# Ops without weights, which run in integers only where it pays.
_CONDITIONAL = frozenset({"add", "mul", "concat", "avg_pool", "resize", "matmul"})
_CONSTANT = "made of constants alone: a runtime computes it once, and in float exactly"


def region_end(graph: OpGraph, op: Op) -> tuple[int, tuple[float, float] | None]:
    """The tensor that leaves `op` together with the clamp it is fused with.

    Returns:
        (tensor, limits): the op's own output and None, or, where the one reader of that output is
        a ReLU or ReLU6, that reader's output and the limits it clamps to.
    """
    tensor = op.outputs[0]
    reader = graph.only_reader(tensor)
    while reader is not None and reader.kind == "identity":
        tensor = reader.outputs[0]
        reader = graph.only_reader(tensor)
    if reader is not None and reader.kind in CLAMPS:
        return reader.outputs[0], CLAMPS[reader.kind]
    return tensor, None


def place(
    sites: Mapping[str, Sequence[str]],
    graph: OpGraph | None,
    target: Target,
    *,
    floating: Collection[str] = (),
) -> tuple[Decision, ...]:
    """One decision per site.

    Args:
        sites: per quantized module, its roles: {"conv1": ["input", "weight", "output"], ...}.
        graph: one forward of the model; None where it is not known, and then outputs stay off and
            all inputs of an add are on.
        target: the runtime.
        floating: modules that compute in float because the user switched part of them off.

    Returns:
        Decisions with action "quantize" or "off", in the order of `sites`.
    """
    idle = _left_float(sites, graph, target, floating) if graph else {}
    integer = {module: roles for module, roles in sites.items() if module not in {*floating, *idle}}
    ops = {op.name: op for op in graph.ops if op.name in sites} if graph else {}
    decisions = []
    for module, roles in sites.items():
        for role in roles:
            if not is_weight(role) and module in floating:
                on, why = False, "part of this layer is switched off, so it runs float (O26)"
            elif module in idle:
                on, why = False, idle[module]
            else:
                on, why = _decide(role, ops.get(module), graph, target, integer)
            name = f"{module}.{role}".lstrip(".")
            decisions.append(Decision(name, "quantize" if on else "off", why))
    return tuple(decisions)


def _left_float(
    sites: Mapping[str, Sequence[str]], graph: OpGraph, target: Target, floating: Collection[str]
) -> dict[str, str]:
    """Modules that this target computes in float, and why.

    Whether an add or a pool is worth its pairs depends on its neighbours, which may be such too:
    all start as integer, and those that have no reason to be are taken out until none is left.
    """
    ops = [op for op in graph.ops if op.name in sites and op.name not in floating]
    why = {
        op.name: f"{target.name} has no integer kernel that pays for {op.kind} (O12, O14, T20, T21)"
        for op in ops
        if op.kind in target.float_kinds
    }
    why |= {op.name: _CONSTANT for op in ops if _is_constant(op, graph)}
    if target.skip_small:
        why |= {op.name: reason for op in ops if (reason := _why_small(op, graph))}
    _add_idle(why, ops, sites, graph, target, floating)
    if target.fastest:
        why |= slower_in_integers(graph, target.costs, sites.keys() - {*floating, *why})
        _add_idle(why, ops, sites, graph, target, floating)
    return why


def _is_constant(op: Op, graph: OpGraph) -> bool:
    """Whether a product depends on no input of the model."""
    return op.kind in WEIGHTED and bool(graph.inputs) and graph.varying.isdisjoint(op.outputs)


def _add_idle(
    why: dict[str, str],
    ops: Sequence[Op],
    sites: Mapping[str, Sequence[str]],
    graph: OpGraph,
    target: Target,
    floating: Collection[str],
) -> None:
    """Add modules that have no reason to run in integers next to those that are float already."""
    while True:
        integer = {name: roles for name, roles in sites.items() if name not in {*floating, *why}}
        idle = {
            op.name: reason
            for op in ops
            if op.name in integer and (reason := _why_idle(op, graph, target, integer))
        }
        if not idle:
            return
        why |= idle


def _why_small(op: Op, graph: OpGraph) -> str:
    """Why a product has too few channels for integer kernels to pay; empty where it has enough."""
    if op.kind not in WEIGHTED or not op.weight or min(op.weight[:2]) >= _ENOUGH:
        return ""
    outputs, inputs, *kernel = op.weight
    if op.kind == "linear":
        return f"a {inputs} x {outputs} product is too small to gain (T18)"
    if op.groups > 1:
        pays = outputs % 8 == 0 and min(kernel) >= 3
    else:
        enough = (
            graph.roots.get(op.inputs[0], op.inputs[0]) in graph.inputs
            or max(inputs, outputs) >= _ENOUGH
        )
        pays = enough and len(set(kernel)) == 1 and 0 in (inputs % 8, outputs % 8)
    return "" if pays else f"{inputs} to {outputs} channels are too few to gain (T19)"


def _why_idle(op: Op, graph: OpGraph, target: Target, integer: Integer) -> str:
    """Why an op without weights should not run in integers; empty where it should."""
    if op.kind in WEIGHTED or op.kind not in _CONDITIONAL:
        return ""
    kind = op.kind.replace("_", " ")
    if op.kind == "matmul":
        return "a product of an attention (T20)" if _in_attention(op, graph) else ""
    if not any(_made_in_integers(tensor, graph, target, integer) for tensor in op.inputs):
        return f"no integer op makes what this {kind} reads (T28, O13)"
    if target.quantize_outputs:
        return ""
    if op.kind == "add" and fused_branch(op, graph, integer) is not None:
        return ""
    if _leaves_as_codes(region_end(graph, op)[0], graph, integer):
        return ""
    return f"something float reads this {kind}, and integers in ask for integers out (T13)"


def _made_in_integers(tensor: int, graph: OpGraph, target: Target, integer: Integer) -> bool:
    """Whether an integer op makes it whose result is quantized at no extra cost.

    A Gemm gives floats for free; TensorRT fuses whatever is pointwise into the op before it (T24).
    """
    if not target.quantize_outputs:
        tensor = graph.roots.get(tensor, tensor)
    maker = _maker_behind(tensor, graph, TRANSPARENT.union(CLAMPS, PARTING))
    if maker is None or maker.name not in integer:
        return False
    return maker.kind != "linear" or not target.quantize_outputs


def _in_attention(op: Op, graph: OpGraph) -> bool:
    """Whether a matmul makes what a softmax reads, or reads what a softmax makes."""
    between = (
        POINTWISE | TRANSPARENT | PARTING | {"where", "masked_fill", "to", "float", "contiguous"}
    )
    work, seen = [op], {op.name}
    while work:
        for reader in graph.readers.get(work.pop().outputs[0], ()):
            if reader.kind == "softmax":
                return True
            if reader.kind in between and reader.name not in seen:
                seen.add(reader.name)
                work.append(reader)
    makers = (_maker_behind(tensor, graph, between) for tensor in op.inputs)
    return any(maker is not None and maker.kind == "softmax" for maker in makers)


def _maker_behind(tensor: int, graph: OpGraph, between: Collection[str]) -> Op | None:
    """The op that makes a tensor, seen through ops of these kinds."""
    maker = graph.producer.get(tensor)
    while maker is not None and maker.kind in between:
        maker = graph.producer.get(maker.inputs[0])
    return maker


def _decide(
    role: str, op: Op | None, graph: OpGraph | None, target: Target, integer: Integer
) -> tuple[bool, str]:
    if graph is None:
        return role != "output", "no forward was recorded: inputs and weights only"
    if op is None:
        return False, "the recorded forward never called this module"
    if target.merge_sums and _is_inner_sum(role, op, graph, integer):
        return False, "a sum within a longer sum, which is rounded as a whole"
    if role == "output":
        return _decide_output(op, graph, target, integer)
    if role.startswith("input_") and op.kind == "add" and target.skip_branch_only:
        return _decide_branch(int(role.removeprefix("input_")), op, graph, integer)
    if is_weight(role):
        return True, "weight of an integer op (T08, O01)"
    return True, "input of an integer op (T08, O01)"


def _is_inner_sum(role: str, op: Op, graph: OpGraph, integer: Integer) -> bool:
    """Whether the site stands between two additions that are one sum."""
    if op.kind != "add" or role == "input":
        return False

    def adds(other: Op | None) -> bool:
        return other is not None and other.kind == "add" and other.name in integer

    if role == "output":
        return adds(graph.only_reader(op.outputs[0]))
    tensor = op.inputs[int(role.removeprefix("input_"))]
    return graph.only_reader(tensor) is op and adds(graph.producer.get(tensor))


def _decide_output(op: Op, graph: OpGraph, target: Target, integer: Integer) -> tuple[bool, str]:
    if not target.quantize_outputs:
        return False, "the pair stands at the next op's input, after the activation (T09)"
    tensor, _ = region_end(graph, op)
    if _leaves_as_codes(tensor, graph, integer):
        return False, "every reader of this tensor quantizes it"
    if op.kind == "linear":
        return False, "a Gemm runs in integers without a pair behind it (O16)"
    return True, "something float reads it, and without a pair the op would run float (O02, O09)"


def _leaves_as_codes(tensor: int, graph: OpGraph, integer: Integer) -> bool:
    """Whether everything that reads `tensor` sees it through one and the same Q/DQ pair.

    Sites that see the same tensor hold the same range, but for an add that has one range for all
    its inputs: two different pairs would make the op before them run float (O17).
    """
    if tensor in graph.outputs:
        return False
    readers = graph.readers.get(tensor, ())
    if len(readers) == 1 and readers[0].kind in TRANSPARENT and len(readers[0].outputs) == 1:
        return _leaves_as_codes(readers[0].outputs[0], graph, integer)
    if len(readers) > 1 and any(_shares_its_range(reader, integer) for reader in readers):
        return False
    return bool(readers) and all(reader.name in integer for reader in readers)


def _shares_its_range(reader: Op, integer: Integer) -> bool:
    return reader.kind == "add" and "input" in integer.get(reader.name, ())


def _decide_branch(index: int, op: Op, graph: OpGraph, integer: Integer) -> tuple[bool, str]:
    """Residual add on TensorRT: the branch that ends in a convolution stays float (T11, T12)."""
    fused = fused_branch(op, graph, integer)
    if fused is None:
        return True, "no input of this add comes straight from an integer convolution (T13)"
    if index == fused:
        return False, "the add is fused into the convolution that makes this input (T11)"
    return True, "skip branch of a residual add (T11)"


def fused_branch(op: Op, graph: OpGraph, integer: Integer) -> int | None:
    """Which input's convolution an add is fused into: of several, the one on the longer way.

    Args:
        op: the add.
        graph: where it stands.
        integer: modules that run in integers.

    Returns:
        Number of the input; None where no input comes straight from a convolution.
    """
    candidates = []
    for index, tensor in enumerate(op.inputs):
        maker = _only_for(op, tensor, graph)
        if maker and maker.kind == "conv" and maker.name in integer:
            candidates.append((graph.depth[maker.name], index))
    return max(candidates)[1] if candidates else None


def _only_for(reader: Op, tensor: int, graph: OpGraph) -> Op | None:
    """What makes `tensor` for nobody but `reader`; a folded BatchNorm between them is no op."""
    maker = graph.producer.get(tensor)
    if maker is None or graph.only_reader(tensor) is not reader:
        return None
    return _only_for(maker, maker.inputs[0], graph) if maker.kind == "identity" else maker
