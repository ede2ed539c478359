"""The regions that TensorRT will fuse a Q/DQ file into, predicted from its published rules.

Nothing is run. A region is what the documents say becomes one kernel: a layer with its
BatchNormalization, residual addition, activation and the Q behind them (T09-T11), an operator
without weights between DQ and Q (T13), a chain of pointwise operators in float.
"""

from collections.abc import Iterator, Mapping

from onnx import TensorProto

from qdq.graph.explaining.accounts import Account, Accounts, Findings
from qdq.graph.explaining.kernels import CODES, FLOATS
from qdq.graph.explaining.obstacles import conversion
from qdq.graph.linting.nodes import ACTIVATIONS, COPIES, DQ, MOVERS, WEIGHTED, Node, Q
from qdq.graph.linting.regions import Regions, residual_sides
from qdq.graph.linting.view import View
from qdq.records.explanation import Fate, KernelRow

# Those of which TensorRT has int8 kernels between DQ and Q.
_UNWEIGHTED = frozenset({
    "Add", "Sub", "Mul", "Sum", "Max", "Min", "Relu", "Clip", "AveragePool", "GlobalAveragePool",
    "Concat", "Resize",
})  # fmt: skip
_POINTWISE = ACTIVATIONS | {
    "Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow", "Sqrt", "Exp", "Log", "Neg", "Abs",
    "Reciprocal", "Where",
}  # fmt: skip
_IDLE = frozenset({"Identity", "Dropout"})


def predict(
    nodes: list[tuple[View, Node]], kinds: Mapping[str, int], findings: Findings
) -> Accounts:
    """Tell by TensorRT's rules what will become of every node.

    Args:
        nodes: of the file, in order, with the graph that each is in.
        kinds: the TensorProto type of each tensor, where it is known.
        findings: what lint says about each node, by label.
    """
    plans = {view: _Plan(view, kinds) for view in dict.fromkeys(view for view, _ in nodes)}
    accounts = [plans[view].account(node, findings) for view, node in nodes]
    number = {node: index for index, (_, node) in enumerate(nodes)}
    regions = [each for plan in plans.values() for each in plan.regions]
    kernels = []
    for region in sorted(regions, key=lambda each: number[each.nodes[0]]):
        members = sorted(region.nodes, key=lambda node: number[node])
        names = tuple(node.label for node in members)
        kernels.append(KernelRow(region.ops, region.fate, names, "", None))
    return Accounts(accounts, kernels)


class _Region:
    """Nodes that become one kernel, the one that gives it its work first."""

    def __init__(self, fate: Fate, nodes: list[Node]) -> None:
        self.fate, self.nodes = fate, nodes
        ops = [node.op for node in nodes]
        self.ops = "+".join([op for op in ops if op not in (Q, DQ)] or ops[:1])


class _Plan:
    """The regions of one graph.

    Each step takes what the ones before it have left: blocks that stay float, layers, other
    operators, then the pairs that are still alone.
    """

    def __init__(self, view: View, kinds: Mapping[str, int]) -> None:
        self.view, self.regions = view, list[_Region]()
        self._kinds, self._blocks = kinds, Regions.of(view)
        self._of: dict[Node, _Region] = {}
        self._decoded: set[str] = set()  # tensors that hold dequantized codes, moved or not
        for node in view.nodes:
            if node.op == DQ or (node.op in MOVERS and self._holds_codes(node.input(0))):
                self._decoded.update(node.outputs)
        self._quantizers: dict[str, list[Node]] = {}
        for node in reversed(view.nodes):
            self._quantizers |= {name: self._quantizers_behind(name) for name in node.outputs}
        live = [node for node in view.nodes if not self._is_idle(node)]
        for block in self._blocks.floats:
            self._add("float", [node for node in block.nodes if node.op not in WEIGHTED])
        for node in reversed(live):  # of two layers, the later one takes the addition
            if node.op in WEIGHTED:
                self._add(self._layer_fate(node), [node, *self._tail(node)])
        for node in live:
            if node.op not in (Q, DQ):
                self._add_unweighted(node)
        for node in reversed(live):
            if node.op in (Q, DQ):
                self._join(node)

    def account(self, node: Node, findings: Findings) -> Account:
        """What will become of a node."""
        region = self._of.get(node)
        if region is None:
            if node.op in _IDLE and not self.view.is_constant(node.result):
                return Account("removed", "", "", "nothing is left to do for it")
            return Account("folded", "", "", "constant: computed once, when the engine is built")
        said = findings.get(node.label, [])
        rule = said[0].rule if said else ""
        why = "; ".join(dict.fromkeys(each.why for each in said))
        fate, head = region.fate, region.nodes[0]
        if fate == "float" and not rule:
            rule, why = self._obstacle(node)
        if node is not head:
            why = f"fused with {head.label}" + (f": {why}" if why else "")
        usual = {
            "integer": f"int8 kernel: {region.ops}",
            "convert": conversion(self.view, node) if fate == "convert" else "",
            "index": "computes sizes, indices or truth values",
        }
        return Account(fate, region.ops, rule, why or usual.get(fate, ""))

    def _is_idle(self, node: Node) -> bool:
        """Whether no kernel is needed for it; a weight's own pair goes where its reader goes."""
        return node.op in _IDLE or (node.op not in (Q, DQ) and self.view.is_constant(node.result))

    def _add(self, fate: Fate, nodes: list[Node]) -> None:
        free = [node for node in dict.fromkeys(nodes) if node not in self._of]
        if free:
            self.regions.append(_Region(fate, free))
            self._of.update(dict.fromkeys(free, self.regions[-1]))

    def _layer_fate(self, node: Node) -> Fate:
        whole = all(self._holds_codes(name) for name in node.inputs[:2])
        return "integer" if whole else "float"

    def _tail(self, node: Node) -> Iterator[Node]:
        """What is fused behind a layer, in order, with the Q that its result goes into."""
        name, added = node.result, False
        while True:
            gate = self._silu(name)
            if gate is not None:
                yield from gate
                name = gate[-1].result
                break
            reader = self._only_reader(name)
            if reader is None or reader in self._of:
                break
            bias = reader.op == "Add" and len(self.view.moving(reader)) == 1
            residual = reader.op == "Add" and not added and self._takes(name, reader)
            if not (reader.op == "BatchNormalization" or bias or residual):
                if reader.op in ACTIVATIONS:
                    yield reader
                    name = reader.result
                break
            added |= residual
            yield reader
            name = reader.result
        yield from self._quantizers.get(name, [])

    def _takes(self, name: str, addition: Node) -> bool:
        """Whether the layer that makes `name` is the one a residual addition is fused with."""
        sides = residual_sides(self.view, addition)
        return sides is not None and sides[1] == name

    def _silu(self, name: str) -> tuple[Node, Node] | None:
        """The Sigmoid and Mul of x * sigmoid(x), where no one else reads x (T24)."""
        for gate, product, x in self._blocks.silus:
            reads = {use.node for use in self.view.readers(name)}
            if x == name and reads == {gate, product}:
                return gate, product
        return None

    def _holds_codes(self, name: str) -> bool:
        outer = self.view.outer is not None and self.view.dq(name, MOVERS) is not None
        return name in self._decoded or outer

    def _quantizers_behind(self, name: str) -> list[Node]:
        """The Q that all readers of a tensor are, also behind what moves codes (T14)."""
        found: list[Node] = []
        for use in self.view.readers(name):
            ends = [use.node] if use.node is not None and use.op == Q else []
            if use.node is not None and use.op in COPIES and use.index == 0:
                parts = [self._quantizers.get(each, []) for each in use.node.outputs if each]
                ends = [node for part in parts for node in part] if all(parts) else []
            if not ends:
                return []
            found += ends
        return found

    def _only_reader(self, name: str) -> Node | None:
        uses = self.view.readers(name)
        return uses[0].node if len(uses) == 1 else None

    def _add_unweighted(self, node: Node) -> None:
        if node in self._of:
            return
        kind = self._kinds.get(node.result, TensorProto.FLOAT)
        moving = self.view.moving(node)
        if kind not in FLOATS | CODES:
            self._add("index", [node])
        elif node.op in COPIES:
            moved = self._holds_codes(node.input(0))
            self._add("integer" if moved or self._is_moved_past(node) else "float", [node])
        else:
            tail = self._chain(node)
            inside = all(self._holds_codes(name) for name in moving)
            codes = self._quantizers.get((tail or [node])[-1].result, [])
            whole = bool(moving and inside and codes) and node.op in _UNWEIGHTED
            self._add("integer" if whole else "float", [node, *tail, *(codes if whole else [])])

    def _is_moved_past(self, node: Node) -> bool:
        """Whether a Q behind it moves in front, into the region that makes its input (T14)."""
        ends = self._quantizers.get(node.result, [])
        return bool(ends) and all(each in self._of for each in ends)

    def _chain(self, node: Node) -> list[Node]:
        """The pointwise operators behind one, each the only reader of the one before."""
        found: list[Node] = []
        reader = self._only_reader(node.result) if node.op in _POINTWISE | _UNWEIGHTED else None
        while reader is not None and reader.op in _POINTWISE and reader not in self._of:
            if len(self.view.moving(reader)) > 1:
                break
            found.append(reader)
            reader = self._only_reader(reader.result)
        return found

    def _join(self, node: Node) -> None:
        """Put a pair's half into the region that reads it, or let it be a kernel of its own."""
        if node in self._of:
            return
        regions = [
            self._of[use.node]
            for use in self.view.uses(node.result, COPIES)
            if use.node is not None and use.node in self._of
        ]
        integer = [each for each in regions if each.fate == "integer"]
        constant = self.view.is_constant(node.result)
        if integer and (node.op == DQ or constant):
            integer[0].nodes.append(node)
            self._of[node] = integer[0]
        elif not constant:
            self._add("convert", [node])

    def _obstacle(self, node: Node) -> tuple[str, str]:
        """Why a node that lint has nothing to say about is float."""
        if any(node in block.nodes for block in self._blocks.floats):
            return "T20", "part of a block that TensorRT computes in float"
        pairs = self.view.quantized(node)
        ends = any(use.op == Q for name in node.outputs for use in self.view.readers(name))
        if not pairs and not ends:
            return "", "no Q/DQ pair touches it"
        if node.op in COPIES:
            return "T14", "it moves floats: nothing is quantized in front of it"
        if node.op in WEIGHTED:
            return "T08", "one of its factors has no pair"
        if node.op in _UNWEIGHTED:
            missing = "its result goes on as float" if pairs else "it reads floats"
            return "T13", f"{missing}: quantize both sides or neither"
        return "T21", f"TensorRT has no int8 kernel for {node.op}"
