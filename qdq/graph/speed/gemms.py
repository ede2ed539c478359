"""Linear layers on more than two dimensions, as products of two matrices with an integer bias."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, infer_shapes, made_by, only_reader, remove
from qdq.graph.speed.quantized import constant_codes, read_codes, scalar_grid, symmetric_weight


@dataclass(frozen=True, eq=False)
class _Linear:
    """A product with (K, N), the sum behind it, the DQ of its data, its bias; sizes but K."""

    product: gs.Node
    total: gs.Node
    data: gs.Node
    bias: gs.Tensor
    shape: tuple[int, int]
    sizes: list[int]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Codes (rows, K), and the sizes before they were made flat; None where numbers say them."""

    codes: gs.Variable
    sizes: gs.Variable | None


def multiply_flat(graph: gs.Graph) -> int:
    """MatMul and the sum with its bias become Reshape - Gemm - Reshape.

    Requires: a quantized weight (K, N) and an int32 bias (N,), data of three or more dimensions.
    Ensures: equal sums of integers; the bias is added to them and no more to floats: the results
    differ by float rounding, some 1e-7 of them.
    """
    infer_shapes(graph)
    found = [_linear(graph, each) for each in graph.nodes if each.op in ("Add", "Sum")]
    linears = [each for each in found if each is not None]
    flat: dict[int, _Rows] = {}
    for each in linears:
        codes = each.data.inputs[0]
        if id(codes) not in flat:
            flat[id(codes)] = _flatten(graph, each)
        _multiply(graph, each, flat[id(codes)])
    return len(linears)


def _linear(graph: gs.Graph, total: gs.Node) -> _Linear | None:
    """The linear layer that ends in this sum, if it can be written flat."""
    if len(total.inputs) != 2:
        return None
    for tensor, bias in (total.inputs, total.inputs[::-1]):
        product = made_by(tensor, "MatMul")
        if product is None or only_reader(graph, tensor) is not total:
            continue
        weight, steps = symmetric_weight(product, axis=1), constant_codes(bias)
        data, shape = made_by(product.inputs[0], DEQUANTIZE), product.inputs[0].shape
        if weight is None or steps is None or data is None or scalar_grid(data) is None:
            continue
        fits = weight.values.ndim == 2 and steps.values.shape == weight.values.shape[1:]
        if fits and steps.values.dtype == np.int32 and shape is not None and len(shape) > 2:
            sizes = [size if isinstance(size, int) else -1 for size in shape[:-1]]
            return _Linear(product, total, data, bias, weight.values.shape, sizes)
    return None


def _flatten(graph: gs.Graph, linear: _Linear) -> _Rows:
    codes, (inputs, _) = linear.data.inputs[0], linear.shape
    rows = gs.Variable(f"{codes.name}.flat", linear.data.inputs[2].values.dtype)
    _reshape(
        graph, codes, gs.Constant(f"{rows.name}.shape", np.array([-1, inputs], np.int64)), rows
    )
    sizes = None
    if linear.sizes.count(-1) > 1 or 0 in linear.sizes:
        whole = gs.Variable(f"{rows.name}.sizes", np.int64)
        sizes = gs.Variable(f"{rows.name}.leading_sizes", np.int64)
        ends = [_sizes(f"{sizes.name}.{end}", end) for end in (0, -1)]
        shape = gs.Node("Shape", f"{rows.name}/Shape", {}, [codes], [whole])
        graph.nodes += [shape, gs.Node("Slice", f"{rows.name}/Slice", {}, [whole, *ends], [sizes])]
    return _Rows(rows, sizes)


def _multiply(graph: gs.Graph, linear: _Linear, rows: _Rows) -> None:
    result, name = linear.total.outputs[0], linear.product.name
    data, weight = linear.product.inputs
    width = linear.shape[1]
    remove(graph, linear.product)
    remove(graph, linear.total)
    made = gs.Variable(f"{result.name}.flat", np.float32)
    gemm = gs.Node("Gemm", name, {}, [data, weight, linear.bias], [made])
    graph.nodes.append(gemm)
    read_codes(graph, gemm, rows.codes, linear.data)
    shape: gs.Tensor = gs.Constant(
        f"{result.name}.shape", np.array([*linear.sizes, width], np.int64)
    )
    if rows.sizes is not None:
        shape = gs.Variable(f"{result.name}.shape", np.int64)
        sizes = [rows.sizes, _sizes(f"{result.name}.width", width)]
        graph.nodes.append(gs.Node("Concat", f"{shape.name}/Concat", {"axis": 0}, sizes, [shape]))
    _reshape(graph, made, shape, result)


def _reshape(graph: gs.Graph, tensor: gs.Tensor, shape: gs.Tensor, result: gs.Variable) -> None:
    node = gs.Node("Reshape", f"{result.name}/Reshape", {}, [tensor, shape], [result])
    graph.nodes.append(node)


def _sizes(name: str, *sizes: int) -> gs.Constant:
    return gs.Constant(name, np.array(sizes, np.int64))
