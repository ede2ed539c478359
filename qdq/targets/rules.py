"""What runtimes want of a Q/DQ graph: every rule with its id, once.

T.. are TensorRT's (its documents, and what NVIDIA's own quantizer encodes), O.. are those of
onnxruntime's CPU provider (as executed), Q.. follow from the ONNX operators QuantizeLinear and
DequantizeLinear and hold everywhere.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One wish of a runtime.

    Attributes:
        id: "T11", "O04", "Q01".
        target: the runtime whose wish it is; "" for all.
        severity: "error": refused, or something else is computed; "warning": slower or less exact
            than it could be; "note": worth knowing.
        why: the rule, in a sentence.
    """

    id: str
    target: str
    severity: Severity
    why: str


_TENSORRT: dict[str, tuple[Severity, str]] = {
    "T01": ("error", "zero points are 0: TensorRT quantizes symmetrically"),
    "T02": ("error", "codes are signed int8"),
    "T03": ("warning", "activations have one scale, weights one per output channel"),
    "T04": ("error", "the scales of a weight lie along its output channels"),
    "T05": ("error", "scales per channel need opset 13, FP8 19, INT4 21, FP4 23"),
    "T06": ("note", "TensorRT 8 wants float weights in front of Q, later ones also codes and DQ"),
    "T07": ("error", "operators on integers, such as QLinearConv, are not TensorRT's"),
    "T08": ("warning", "all factors of a Conv, ConvTranspose, Gemm or MatMul are quantized"),
    "T09": ("warning", "Q stands after the activation that a layer is fused with"),
    "T10": ("error", "Conv, BatchNormalization and ReLU stay together, without a pair between"),
    "T11": ("warning", "of a residual addition the skip input is quantized"),
    "T12": ("warning", "no pair stands between a layer and the addition it is fused with"),
    "T13": ("warning", "an operator without weights reads and gives int8, or neither"),
    "T14": ("note", "operators that move values need no pair of their own"),
    "T15": ("warning", "all Q of one tensor have one scale, or they cannot be merged"),
    "T16": ("warning", "quantized inputs and the output of a Concat share one scale"),
    "T17": ("note", "Q behind a Concat of float branches moves in front of it, and costs time"),
    "T18": ("warning", "a matrix product with a side below 16 gains nothing from int8"),
    "T19": ("warning", "a Conv with few channels or a varying weight gains nothing from int8"),
    "T20": ("warning", "layer norms, GELUs and masked attention stay float"),
    "T21": ("warning", "operators without an int8 kernel have no pair of their own"),
    "T22": ("warning", "biases are float"),
    "T23": ("warning", "pointwise operators with a constant stay float"),
    "T24": ("warning", "x * sigmoid(x) is one region with its Conv: a pair comes after it only"),
    "T25": ("note", "a layer norm behind a Conv reads int8 well"),
    "T26": ("note", "a Resize behind a Conv reads int8 well"),
    "T27": ("note", "what gives an output of the graph stays float, unless it has weights"),
    "T28": ("note", "a pool is int8 only next to an int8 operator"),
    "T29": ("warning", "a BatchNormalization in front of a Conv is not folded over a pair"),
    "T30": ("note", "Pad is fused with the Conv behind it: no pair between"),
    "T31": ("note", "below SM 7.5 some layers have no int8 kernel"),
    "T32": ("note", "a plugin is given codes by itself: DQ and Q are folded into it"),
    "T33": ("note", "readers of one tensor may share its pair"),
    "T34": ("note", "nothing is published on GroupNorm: leave it float"),
}
_ONNXRUNTIME: dict[str, tuple[Severity, str]] = {
    "O01": ("warning", "a Conv runs in integers if both its factors are dequantized"),
    "O02": ("warning", "a Conv runs in integers if a Q stands right behind it"),
    "O03": ("note", "a ReLU vanishes in front of a Q whose zero point is its lowest code"),
    "O04": ("warning", "a ReLU in front of any other Q makes what is before it run float"),
    "O05": ("warning", "a Clip vanishes only if it lets pass all that the Q behind it can hold"),
    "O06": ("warning", "an activation other than ReLU and Clip comes after the Q of its Conv"),
    "O07": ("error", "a bias is int32 of scale s_x * s_w, and weight scales lie along axis 0"),
    "O08": ("note", "a float weight with Q and DQ is as good as codes with DQ"),
    "O09": ("warning", "Add and Mul run in integers between DQ on both inputs and Q"),
    "O10": ("warning", "a residual addition needs a pair behind its Conv as well"),
    "O11": ("warning", "Concat runs in integers if all inputs are dequantized and Q follows"),
    "O12": ("warning", "what moves values runs on codes only between equal grids"),
    "O13": ("warning", "pools, Sigmoid, LeakyRelu and Softmax run in integers if Q follows"),
    "O14": ("warning", "what has no integer kernel runs float, and its pairs only cost"),
    "O15": ("warning", "a MatMul runs in integers if both factors are dequantized"),
    "O16": ("warning", "a Gemm needs two dequantized factors, an int32 bias and beta 1"),
    "O17": ("warning", "what a Q reads is read by nothing else and is no output"),
    "O18": ("note", "one DQ may serve several readers"),
    "O19": ("note", "a second pair of the same grid is dropped"),
    "O20": ("warning", "a BatchNormalization behind a quantized Conv is not folded by itself"),
    "O21": ("warning", "a pair that neither begins nor ends an integer operator only costs"),
    "O22": ("warning", "Split moves codes if all its outputs keep the grid of its input"),
    "O23": ("warning", "scales and zero points are constants and present"),
    "O24": ("error", "without VNNI weights have 7 bits, or sums of products saturate"),
    "O25": ("error", "sums of products and bias stay within int32"),
    "O26": ("error", "the float weight of a Conv between DQ and Q is quantized at run time"),
    "O27": ("warning", "int8 codes have one reader, or all that makes and reads them runs float"),
}  # fmt: skip
_OPERATORS: dict[str, tuple[Severity, str]] = {
    "Q01": ("error", "scales are positive, finite and not subnormal"),
    "Q02": ("error", "there is one scale, or one per entry of the axis; zero points likewise"),
    "Q03": ("error", "zero points and codes have one type, and DQ reads with the grid of its Q"),
    "Q04": ("note", "an axis counted from the end is not read by every parser"),
    "Q05": ("note", "a pair that nothing reads can go"),
}

RULES: dict[str, Rule] = {
    id: Rule(id, target, *rest)
    for target, table in (
        ("tensorrt", _TENSORRT), ("onnxruntime", _ONNXRUNTIME), ("", _OPERATORS),
    )
    for id, rest in table.items()
}  # fmt: skip
