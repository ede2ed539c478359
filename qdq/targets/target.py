"""Target: one runtime's wishes as a frozen value; one per runtime.

One Q/DQ graph cannot be fast on both TensorRT and onnxruntime's CPU provider, so a target is a
first-class value. Targets share ranges, not scales: a scale is a function of (range, target).
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qdq.errors import SpecError
from qdq.registry import Registry, choose_one_of
from qdq.spec import QuantSpec

WEIGHT = QuantSpec(narrow=True)  # int8, symmetric; the layer says which axis keeps its scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where Q/DQ pairs go, and which integers they hold.

    Attributes:
        name: how users and files call it.
        activation: grid of every activation.
        weight: grid of every weight, before the layer's `keep_axis` is filled in.
        integer_bias: biases are written as int32 codes of scale s_x * s_w. Otherwise they are
            written as floats, on that same grid all the same: onnxruntime quantizes a float bias
            by itself (O07), which then changes nothing.
        quantize_outputs: an integer op's result must pass a Q/DQ pair before anything float
            reads it, or the op is not run in integers.
        skip_branch_only: of a residual add's inputs, the one that comes straight from a
            convolution stays float, because the add is fused into that convolution.
        float_kinds: ops that it has no integer kernel for, or none that pays: their sites are off.
        merge_sums: of `a + b + c` each addend is rounded once and no sum in between, as in one
            `QuantMultiAdd(3)`.
        skip_small: products with too few channels to gain from integers stay float (T18, T19).
        speed_passes: the file is rewritten for speed, see `qdq.graph.speed`.
        note: what to tell somebody who runs this target's file somewhere else.
    """

    name: str
    activation: QuantSpec
    weight: QuantSpec = WEIGHT
    integer_bias: bool
    quantize_outputs: bool
    skip_branch_only: bool
    float_kinds: tuple[str, ...] = ()
    merge_sums: bool = False
    skip_small: bool = False
    speed_passes: bool = False
    note: str = ""


TARGETS: Registry[str, Target] = Registry("target")
TargetLike: TypeAlias = str | Target

# T01, T02: zero points are 0 and codes are int8. T09: Q/DQ on the inputs of weighted ops only, so
# that Conv, BatchNorm and ReLU stay contiguous. T11: residual adds, skip branch only. T22: float
# bias.
TARGETS.add("tensorrt")(
    Target(
        name="tensorrt",
        activation=QuantSpec(),
        integer_bias=False,
        quantize_outputs=False,
        skip_branch_only=True,
        float_kinds=("attention", "concat", "embedding"),
        note="made for TensorRT; onnxruntime's CPU provider runs it slower than float: "
        "export for target 'onnxruntime' to deploy there",
    )
)
# O02: no Q behind a Conv, no integer Conv. O03: a ReLU vanishes only if Q's zero point is its
# lowest code, hence uint8, and x86 kernels want uint8 activations anyway. O07: int32 bias. O09,
# O10: an Add needs Q/DQ on both inputs and on its output. O12, O14: no integer kernel that mixes
# neighbours in a Resize, and none of ConvTranspose.
TARGETS.add("onnxruntime")(
    Target(
        name="onnxruntime",
        activation=QuantSpec(signed=False, symmetric=False),
        integer_bias=True,
        quantize_outputs=True,
        skip_branch_only=False,
        float_kinds=("conv_transpose", "attention", "matmul", "resize"),
        speed_passes=True,
    )
)


def get(name: TargetLike, **options: Any) -> Target:
    """The target of that name, with some of its fields replaced.

    Args:
        name: a registered name, or a Target, which is given back.
        **options: fields of Target and their values, `activation=QuantSpec(bits=4)`.

    Raises:
        RegistryError: no such target.
        SpecError: no such option.
    """
    target = name if isinstance(name, Target) else TARGETS[name]
    known = sorted(field for field in Target.__dataclass_fields__ if field != "name")
    for option in options:
        if option not in known:
            raise SpecError(
                f"target {target.name!r} has no option {option!r}",
                fix=choose_one_of(option, known),
            )
    return replace(target, **options)
