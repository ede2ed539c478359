"""Target: one runtime's wishes as a frozen value; one per runtime.

One Q/DQ graph cannot be fast on both TensorRT and onnxruntime's CPU provider, so a target is a
first-class value. Targets share ranges, not scales: a scale is a function of (range, target).
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qdq.errors import RegistryError, SpecError
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
        skip_passes: speed passes that write what it cannot read, or what is slower there.
        signed_kernels: its kernels take int8 activations as they are; elsewhere onnxruntime makes
            uint8 of them where it can (O27).
        float_weights: it reads weights as floats in front of Q and DQ only, not as codes (T06).
        transposed_axis: axis of a ConvTranspose's weight that may keep one scale per entry (T04).
        costs: what the machine's kernels take: a table that comes with the package, or the path of
            one that `qdq bench --fit` measured; empty where nobody measured.
        fastest: layers that run faster in float stay float, by `costs`, for one row of the example
            inputs.
        waived: rules that its files break on purpose.
        variant: which of its versions or machines it is made for; "" for the usual one.
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
    skip_passes: tuple[str, ...] = ()
    signed_kernels: bool = False
    float_weights: bool = False
    transposed_axis: int = 1
    costs: str = ""
    fastest: bool = False
    waived: tuple[str, ...] = ()
    variant: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """Name and variant as `get` takes them: "tensorrt:8"."""
        return f"{self.name}:{self.variant}" if self.variant else self.name

    def __post_init__(self) -> None:
        """SpecError where it should be the fastest and nobody knows what takes how long."""
        if self.fastest and not self.costs:
            raise SpecError(
                f"target {self.name!r} has no table of costs to find the fastest placement by",
                fix="pass costs='x86_vnni', or measure this machine: `qdq bench --fit costs.json`",
            )


TARGETS: Registry[str, Target] = Registry("target")
TargetLike: TypeAlias = str | Target

# They write uint8, clamps of codes or int32 biases, or serve kernels that read these.
_ONNXRUNTIME_ONLY = (
    "shift_codes",
    "clamp_codes",
    "pick_by_convolution",
    "merge_projections",
    "pad_channels",
    "block_stem",
    "pad_stem",
    "multiply_flat",
    "sum_before_norm",
)

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
        skip_passes=(*_ONNXRUNTIME_ONLY, "round_before_clamps"),
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
        costs="x86_vnni",
    )
)


# Per target: its variants, and the fields in which they are not the usual one.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    # T04, T06: the kernels of TensorRT 8 keep a ConvTranspose's scales along its input channels,
    # which no grid of ours does, and its parser wants weights that are floats.
    "tensorrt": {
        "8": {
            "float_weights": True,
            "transposed_axis": 0,
            "float_kinds": ("attention", "concat", "conv_transpose", "embedding"),
        },
        "9": {},
        "10": {},
        # O02, O10, O11: pairs where onnxruntime wants them too, at the price of what is waived.
        "portable": {
            "quantize_outputs": True,
            "skip_branch_only": False,
            "float_kinds": ("attention", "conv_transpose", "embedding", "matmul", "resize"),
            "speed_passes": True,
            "skip_passes": _ONNXRUNTIME_ONLY,
            "waived": ("T09", "T12", "T13", "T14", "T16", "T21"),
            "note": "",
        },
    },
    # O24: without VNNI products of uint8 and int8 saturate in pairs; ARM has kernels on int8.
    "onnxruntime": {
        "x86": {},
        "x86-without-vnni": {"weight": replace(WEIGHT, bits=7), "costs": ""},
        "arm": {
            "activation": QuantSpec(symmetric=False),
            "signed_kernels": True,
            "skip_passes": ("shift_codes", "round_before_clamps", "split_quantizers"),
            "costs": "",
        },
    },
}


def get(name: TargetLike, **options: Any) -> Target:
    """The target of that name, with some of its fields replaced.

    Args:
        name: a registered name, of a variant "tensorrt:8.6" or "onnxruntime:arm"; or a Target,
            which is given back. Of a version the first number counts.
        **options: fields of Target and their values, `activation=QuantSpec(bits=4)`; and
            `variant="8.6"`, which says the same as a name with it and takes the place of the
            variant that a Target is.

    Raises:
        RegistryError: no such target, or no such variant of it.
        SpecError: no such option.
    """
    base, _, suffix = name.partition(":") if isinstance(name, str) else (name, "", "")
    target = base if isinstance(base, Target) else TARGETS[base]
    known = sorted(field for field in Target.__dataclass_fields__ if field != "name")
    for option in options:
        if option not in known:
            raise SpecError(
                f"target {target.name!r} has no option {option!r}",
                fix=choose_one_of(option, known),
            )
    variant = options.pop("variant", suffix if isinstance(name, str) else target.variant)
    return replace(target, **{**_of_variant(target, str(variant or "")), **options})


def _of_variant(target: Target, variant: str) -> dict[str, Any]:
    """The fields that change where a target becomes this variant; its own ones stay."""
    if variant == target.variant:
        return {}
    usual = TARGETS[target.name]
    before = _differences(target.name, target.variant)
    back = {field for field, value in before.items() if getattr(target, field) == value}
    return {field: getattr(usual, field) for field in back} | _differences(target.name, variant)


def _differences(name: str, variant: str) -> dict[str, Any]:
    """The fields in which a variant of a target is not the usual one."""
    if not variant:
        return {}
    variants = VARIANTS.get(name, {})
    number = variant.partition(".")[0]
    key = number if number.isdecimal() else variant
    if key not in variants:
        raise RegistryError(
            f"target {name!r} has no variant {variant!r}", fix=choose_one_of(key, list(variants))
        )
    return {"variant": variant, **variants[key]}
