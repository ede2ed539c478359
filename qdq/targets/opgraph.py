"""The neutral op graph: which op made which tensor and who reads it. No torch, no onnx.

Both a recorded torch forward and an ONNX file turn into one; placement reads nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

# Ops with weights that have integer kernels.
WEIGHTED = frozenset({"conv", "linear"})
# Layers that one range serves however often a forward calls them: a cell's steps see the same kind
# of numbers, and an embedding has no range but its table's.
CALLED_AGAIN = frozenset({"lstm_cell", "gru_cell", "embedding"})
# Activations that a clamp of the codes does for free: kind -> (lowest, highest value).
CLAMPS: dict[str, tuple[float, float]] = {"relu": (0.0, float("inf")), "relu6": (0.0, 6.0)}
# Ops that commute with Q exactly, so that a pair behind them may as well stand before (T14, O12).
TRANSPARENT = frozenset({"max_pool", "reshape", "transpose", "identity", "resize_nearest"})
# Ops that give parts of a tensor as they are. A pair behind one part says nothing of the others.
PARTING = frozenset({"split", "slice"})
# Ops that compute each element of their result from the elements of one tensor without weights:
# what is made of them is an activation function or a normalization, one float region (T20, T24).
POINTWISE = frozenset(
    {
        *CLAMPS, "identity", "sigmoid", "hardsigmoid", "silu", "hardswish", "gelu", "tanh", "erf",
        "leaky_relu", "prelu", "elu", "softplus", "mish", "hardtanh", "clamp", "exp", "log", "pow",
        "square", "sqrt", "rsqrt", "neg", "abs", "add", "other_add", "sub", "rsub", "mul",
        "other_mul", "div", "mean", "var", "std", "sum", "layer_norm", "__pow__",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Op:
    """One call in one forward.

    Attributes:
        name: module path (`layer1.0.conv1`), or module and call index (`layer1.0.add_0`).
        kind: "conv", "linear", "add", "relu", ...; anything unknown keeps its own name.
        inputs: numbers of the tensors it is called with, in order; a layer's own parameters are
            not among them.
        outputs: numbers of the tensors it makes.
        rank: dimensions of the first output; None where no data told.
        weight: shape of the constant it multiplies by, (out, in / groups, kernel...); empty where
            there is none or nobody told.
        groups: of a convolution.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rank: int | None = None
    weight: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class OpGraph:
    """Ops in the order they ran.

    Attributes:
        ops: every op that made a tensor.
        outputs: numbers of the tensors the model returned.
        inputs: numbers of the tensors the model was given; one that nothing makes and that is not
            among them is a parameter or a constant.
        shapes: of tensors, where data told; what has none is not known.
    """

    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    shapes: Mapping[int, tuple[int, ...]] = field(default_factory=dict, hash=False)

    @cached_property
    def producer(self) -> dict[int, Op]:
        """The op that made each tensor; the model's own inputs have none."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    @cached_property
    def readers(self) -> dict[int, tuple[Op, ...]]:
        """The ops that read each tensor, in order."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(op.inputs):
                found.setdefault(tensor, []).append(op)
        return {tensor: tuple(ops) for tensor, ops in found.items()}

    @cached_property
    def varying(self) -> frozenset[int]:
        """The tensors that depend on the model's inputs; all others are constants."""
        found = set(self.inputs)
        for op in self.ops:
            if not found.isdisjoint(op.inputs):
                found.update(op.outputs)
        return frozenset(found)

    @cached_property
    def roots(self) -> dict[int, int]:
        """The tensor that each tensor is a pointwise function of: most often itself."""
        found: dict[int, int] = {}
        for op in self.ops:
            before = {found.get(each, each) for each in op.inputs if each in self.varying}
            root = before.pop() if len(before) == 1 and op.kind in POINTWISE else None
            found |= {each: each if root is None else root for each in op.outputs}
        return found

    def is_pointwise(self, op: Op) -> bool:
        """Whether all its varying inputs are functions of one tensor: `x * sigmoid(x)`."""
        return len({self.roots.get(each, each) for each in op.inputs if each in self.varying}) == 1

    @cached_property
    def calls(self) -> dict[str, int]:
        """How often each name was called."""
        counts: dict[str, int] = {}
        for op in self.ops:
            counts[op.name] = counts.get(op.name, 0) + 1
        return counts

    @cached_property
    def depth(self) -> dict[str, int]:
        """Per op, how many ops the longest way from the model's inputs to its result has."""
        of_tensor: dict[int, int] = {}
        of_op: dict[str, int] = {}
        for op in self.ops:
            of_op[op.name] = 1 + max((of_tensor.get(tensor, 0) for tensor in op.inputs), default=0)
            of_tensor.update(dict.fromkeys(op.outputs, of_op[op.name]))
        return of_op

    def only_reader(self, tensor: int) -> Op | None:
        """The single op that reads `tensor`, if it is single and no output of the model."""
        readers = self.readers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None
