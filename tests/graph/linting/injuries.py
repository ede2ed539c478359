"""Ways to break a good Q/DQ file, one rule each."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from tests.graph.linting.patient import DQ, Patient, Q

Injury = Callable[[Patient], bool]


def weight_dq(patient: Patient, *ops: str) -> Iterator[tuple[NodeProto, NodeProto]]:
    for layer in patient.of(*ops):
        dequantizer = patient.maker(layer.input[1])
        if dequantizer is not None and dequantizer.op_type == DQ:
            yield layer, dequantizer


def zero_point(patient: Patient, value: int, kind: Any, behind: str = "") -> bool:
    """Give the pairs behind an operator another zero point, and so other codes."""
    done = False
    for quantizer in patient.of(Q):
        maker = patient.maker(quantizer.input[0])
        if behind and (maker is None or maker.op_type != behind):
            continue
        before = patient.maker(maker.input[0]) if behind and maker is not None else None
        if before is not None and before.op_type == "Sum":
            continue  # nothing is fused over it
        name = patient.hold(value, kind)
        for node in (quantizer, *patient.readers(quantizer.output[0])):
            node.input[2] = name
        done = True
    return done


def one_weight_scale(patient: Patient) -> bool:
    for _, dequantizer in weight_dq(patient, "Conv", "Gemm", "MatMul"):
        dequantizer.input[1], dequantizer.input[2] = (
            patient.hold(0.1, np.float32),
            patient.hold(0, np.int8),
        )
        del dequantizer.attribute[:]
        return True
    return False


def weight_axis(patient: Patient, axis: int) -> bool:
    """Scales along another axis, as many as that is long; or the same axis from the end."""
    for _, dequantizer in weight_dq(patient, "Conv", "Gemm", "MatMul"):
        shape = patient.values(dequantizer.input[0]).shape
        old = next(each.i for each in dequantizer.attribute if each.name == "axis")
        new = old - len(shape) if axis < 0 else 1 - old
        dequantizer.input[1] = patient.hold(np.ones(shape[new]), np.float32)
        dequantizer.input[2] = patient.hold(np.zeros(shape[new]), np.int8)
        del dequantizer.attribute[:]
        dequantizer.attribute.append(helper.make_attribute("axis", new))
        return True
    return False


def old_opset(patient: Patient) -> bool:
    patient.model.opset_import[0].version = 12
    return not list(patient.of("ReduceMean", "Squeeze", "Unsqueeze"))


def float_weight(patient: Patient, *ops: str) -> bool:
    return any(patient.float_weight(layer) for layer in patient.of(*ops))


def pair_in_front(patient: Patient, makers: tuple[str, ...], reader: str) -> bool:
    for _, node in patient.between(makers, reader):
        patient.pair(node)
        return True
    return False


def batch_norm(patient: Patient) -> bool:
    for layer, relu in patient.between(("Conv",), "Relu"):
        patient.pair(relu)
        count = len(patient.values(layer.input[2]))
        ones = [patient.hold(np.ones(count), np.float32) for _ in range(4)]
        name = f"{relu.input[0]}.norm"
        patient.insert(relu, helper.make_node("BatchNormalization", [relu.input[0], *ones], [name]))
        relu.input[0] = name
        return True
    return False


def pair_at_the_addition(patient: Patient) -> bool:
    for addition in patient.of("Add"):
        makers = [patient.maker(name) for name in addition.input]
        kinds = [maker.op_type if maker is not None else "" for maker in makers]
        if sorted(kinds) == ["Conv", DQ]:
            if kinds[1] == "Conv":
                addition.input[:] = [addition.input[1], addition.input[0]]
            patient.pair(addition)
            return True
    return False


def unpaired_addition(patient: Patient) -> bool:
    return any(
        patient.unpair(name)
        for addition in patient.of("Add")
        for name in list(addition.input)
        if len(patient.readers(name)) == 1
    )


def second_scale(patient: Patient) -> bool:
    quantizer = next(patient.of(Q))
    grid = [patient.hold(0.77, np.float32), quantizer.input[2]]
    patient.graph.node.append(helper.make_node(Q, [quantizer.input[0], *grid], ["twice"]))
    return True


def quantized_bias(patient: Patient) -> bool:
    for layer in patient.of("Conv", "Gemm"):
        if len(layer.input) > 2 and patient.maker(layer.input[2]) is None:
            codes = patient.hold(np.ones(len(patient.values(layer.input[2]))), np.int32)
            scale = patient.hold(0.1, np.float32)
            patient.insert(layer, helper.make_node(DQ, [codes, scale], ["bias.float"]))
            layer.input[2] = "bias.float"
            return True
    return False


def pair_at_the_output(patient: Patient) -> bool:
    output = patient.graph.output[0]
    grid = [patient.hold(0.05, np.float32), patient.hold(0, np.int8)]
    maker = patient.maker(output.name)
    if maker is None or maker.op_type == DQ:
        return False
    maker.output[list(maker.output).index(output.name)] = "float.output"
    patient.graph.node.extend([
        helper.make_node(Q, ["float.output", *grid], ["output.codes"]),
        helper.make_node(DQ, ["output.codes", *grid], [output.name]),
    ])  # fmt: skip
    return True


def float_input(patient: Patient) -> bool:
    """Take away the pair in front of a Conv, unless what it quantizes are moved codes."""
    for layer in patient.of("Conv"):
        dequantizer = patient.maker(layer.input[0])
        quantizer = patient.maker(dequantizer.input[0]) if dequantizer is not None else None
        before = patient.maker(quantizer.input[0]) if quantizer is not None else None
        moved = before is not None and before.op_type in ("MaxPool", "Flatten", "Reshape")
        if not moved and patient.unpair(layer.input[0]):
            return True
    return False


def float_output(patient: Patient) -> bool:
    """Take away the pair behind a Conv, or behind its ReLU."""
    for layer in patient.of("Conv"):
        (reader,) = patient.readers(layer.output[0])
        tensor = reader.output[0] if reader.op_type == "Relu" else layer.output[0]
        quantizer = patient.readers(tensor)[0]
        dequantizers = patient.readers(quantizer.output[0])
        if len(dequantizers) == 1 and patient.readers(dequantizers[0].output[0]):
            return patient.unpair(dequantizers[0].output[0])
    return False


def float_bias(patient: Patient) -> bool:
    for layer in patient.of("Conv"):
        if len(layer.input) > 2:
            bias = patient.maker(layer.input[2])
            assert bias is not None
            count = len(patient.values(bias.input[0]))
            layer.input[2] = patient.hold(np.ones(count), np.float32)
            return True
    return False


def bias_grid(patient: Patient, *, index: int, values: Callable[[Any], Any]) -> bool:
    """Other codes or scales of a bias."""
    for layer in patient.of("Conv"):
        if len(layer.input) > 2:
            bias = patient.maker(layer.input[2])
            assert bias is not None
            old = patient.values(bias.input[index])
            bias.input[index] = patient.hold(values(old), old.dtype)
            return True
    return False


def conv_as_output(patient: Patient) -> bool:
    """Let a tensor that a Q reads be an output of the graph too."""
    for layer in patient.of("Conv"):
        (reader,) = patient.readers(layer.output[0])
        if reader.op_type in (Q, "Relu"):
            kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
            name = layer.output[0] if reader.op_type == Q else reader.output[0]
            patient.graph.output.append(helper.make_value_info(name, kind))
            return True
    return False


def no_zero_point(patient: Patient) -> bool:
    del next(patient.of(Q)).input[2]
    return True


def repeated_pair(patient: Patient) -> bool:
    for layer in patient.of("Conv", "Gemm"):
        dequantizer = patient.maker(layer.input[0])
        if dequantizer is not None and dequantizer.op_type == DQ:
            patient.pair(layer, like=dequantizer)
            return True
    return False


def scale_behind(patient: Patient, op: str) -> bool:
    for quantizer in patient.of(Q):
        maker = patient.maker(quantizer.input[0])
        if maker is not None and maker.op_type == op:
            name = patient.hold(0.77, np.float32)
            for node in (quantizer, *patient.readers(quantizer.output[0])):
                node.input[1] = name
            return True
    return False


def scale(patient: Patient, value: float) -> bool:
    quantizer = next(patient.of(Q))
    name = patient.hold(value, np.float32)
    for node in (quantizer, *patient.readers(quantizer.output[0])):
        node.input[1] = name
    return True


def other_grid(patient: Patient) -> bool:
    for dequantizer in patient.of(DQ):
        maker = patient.maker(dequantizer.input[0])
        if maker is not None and maker.op_type == Q:
            dequantizer.input[1] = patient.hold(0.77, np.float32)
            return True
    return False


def zero_points_too_many(patient: Patient) -> bool:
    quantizer = next(patient.of(Q))
    kind = patient.values(quantizer.input[2]).dtype
    quantizer.input[2] = patient.hold(np.zeros(3), kind)
    return True


EVERYWHERE: dict[str, Injury] = {
    "Q01 zero": lambda it: scale(it, 0.0),
    "Q01 negative": lambda it: scale(it, -1.0),
    "Q01 nan": lambda it: scale(it, float("nan")),
    "Q01 infinite": lambda it: scale(it, float("inf")),
    "Q01 subnormal": lambda it: scale(it, 1e-40),
    "Q02": zero_points_too_many,
    "Q03": other_grid,
    "Q04": lambda it: weight_axis(it, -1),
    "Q05": second_scale,
}
TENSORRT: dict[str, Injury] = {
    "T01": lambda it: zero_point(it, 3, np.int8),
    "T02": lambda it: zero_point(it, 0, np.uint8),
    "T03": one_weight_scale,
    "T04": lambda it: weight_axis(it, 1),
    "T05": old_opset,
    "T08": lambda it: float_weight(it, "Conv", "Gemm", "MatMul"),
    "T08 input": float_input,
    "T09": lambda it: pair_in_front(it, ("Conv", "Gemm"), "Relu"),
    "T10": batch_norm,
    "T11": unpaired_addition,
    "T12": pair_at_the_addition,
    "T14": lambda it: pair_in_front(it, ("Relu",), "MaxPool"),
    "T15": second_scale,
    "T22": quantized_bias,
    "T27": pair_at_the_output,
}
ONNXRUNTIME: dict[str, Injury] = {
    "O01": float_input,
    "O02": float_output,
    "O04": lambda it: zero_point(it, 128, np.uint8, behind="Relu"),
    "O07": lambda it: bias_grid(it, index=1, values=lambda old: old * 2),
    "O07 float": float_bias,
    "O10": unpaired_addition,
    "O12": lambda it: scale_behind(it, "MaxPool"),
    "O16": lambda it: float_weight(it, "Gemm"),
    "O17": conv_as_output,
    "O19": repeated_pair,
    "O23": no_zero_point,
    "O25": lambda it: bias_grid(it, index=0, values=lambda old: np.full_like(old, 2**31 - 1)),
    "O26": lambda it: float_weight(it, "Conv"),
}  # fmt: skip
INJURIES = {"tensorrt": EVERYWHERE | TENSORRT, "onnxruntime": EVERYWHERE | ONNXRUNTIME}


def injured(model: onnx.ModelProto, target: str, name: str) -> onnx.ModelProto | None:
    """A broken copy; None where the model holds nothing that could be broken so."""
    patient = Patient(model)
    return patient.model if INJURIES[target][name](patient) else None
