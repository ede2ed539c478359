"""The same layer written one way: sums, Gemms, means over an image."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import Array, made_by, only_reader, remove, values_of

_IMAGE = 4  # axes


def add_in_pairs(graph: gs.Graph) -> int:
    """A Sum becomes Adds, which have integer kernels (O09)."""
    sums = [each for each in graph.nodes if each.op == "Sum" and len(each.inputs) > 1]
    for node in sums:
        (first, *others), result = list(node.inputs), node.outputs[0]
        remove(graph, node)
        for index, other in enumerate(others):
            name = f"{node.name}/{index}" if index else node.name
            last = index == len(others) - 1
            total = result if last else gs.Variable(f"{result.name}/{index}", result.dtype)
            graph.nodes.append(gs.Node("Add", name, {}, [first, other], [total]))
            first = total
    return len(sums)


def plain_gemms(graph: gs.Graph) -> int:
    """Gemm by a constant has alpha and beta 1, and a C of one entry per output channel."""
    changed = 0
    for node in [each for each in graph.nodes if each.op == "Gemm" and not each.domain]:
        weight, bias = values_of(node, 1), values_of(node, 2)
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
            continue
        alpha, beta = (np.float32(node.attrs.pop(key, 1.0)) for key in ("alpha", "beta"))
        if alpha != 1:
            node.inputs[1] = gs.Constant(f"{node.name}/scaled_weight", weight * alpha)
            changed += 1
        if bias is None:
            if beta != 1:
                node.attrs["beta"] = float(beta)
            continue
        width = weight.shape[0 if node.attrs.get("transB", 0) else 1]
        if bias.shape in ((), (1,), (1, 1), (1, width)) or (beta != 1 and bias.shape == (width,)):
            values = np.broadcast_to(bias.reshape(-1) * beta, (width,))
            node.inputs[2] = gs.Constant(f"{node.name}/bias", np.ascontiguousarray(values))
            changed += 1
        elif beta != 1:
            node.attrs["beta"] = float(beta)
    return changed


def flat_biases(graph: gs.Graph) -> int:
    """A constant (1, ..., N) that is added to a product with (K, N) becomes (N,)."""
    changed = 0
    for add in [each for each in graph.nodes if each.op == "Add" and not each.domain]:
        for index in range(2):
            product, bias = made_by(add.inputs[1 - index], "MatMul"), values_of(add, index)
            weight = None if product is None else values_of(product, 1)
            if product is None or weight is None or bias is None or weight.ndim != 2:
                continue
            shape = product.outputs[0].shape
            if shape is None or bias.ndim > len(shape) or bias.shape == weight.shape[1:]:
                continue
            if bias.size == bias.shape[-1] == weight.shape[1]:
                add.inputs[index] = gs.Constant(f"{add.name}/bias", bias.reshape(-1))
                changed += 1
    return changed


def gemms_of_products(graph: gs.Graph) -> int:
    """MatMul by a constant and the Add of its bias become a Gemm, where the data has two axes."""
    made = 0
    for node in [each for each in graph.nodes if each.op == "MatMul" and not each.domain]:
        weight, shape = values_of(node, 1), node.inputs[0].shape
        if weight is None or weight.ndim != 2 or shape is None or len(shape) != 2:
            continue
        add = only_reader(graph, node.outputs[0])
        if add is None or add.op != "Add":
            continue
        index = 1 if add.inputs[0] is node.outputs[0] else 0
        bias = values_of(add, index)
        if bias is None or bias.shape != weight.shape[1:]:
            continue
        inputs, outputs = [*node.inputs, add.inputs[index]], list(add.outputs)
        remove(graph, node)
        remove(graph, add)
        graph.nodes.append(gs.Node("Gemm", node.name, {}, inputs, outputs))
        made += 1
    return made


def pools_of_means(graph: gs.Graph) -> int:
    """ReduceMean over all axes of an image becomes GlobalAveragePool, which has an integer kernel.

    Without `keepdims` a Squeeze stands behind it. A mean that is then subtracted belongs to a
    normalization, which is a float region, and stays.
    """
    made = 0
    for node in [each for each in graph.nodes if each.op == "ReduceMean" and not each.domain]:
        shape, axes = node.inputs[0].shape, _axes(node)
        subtracted = any(each.op == "Sub" for each in node.outputs[0].outputs)
        if axes is None or shape is None or len(shape) < _IMAGE or subtracted:
            continue
        spatial = list(range(2, len(shape)))
        if sorted(int(axis) % len(shape) for axis in axes) != spatial:
            continue
        source, result = node.inputs[0], node.outputs[0]
        remove(graph, node)
        if node.attrs.get("keepdims", 1):
            graph.nodes.append(gs.Node("GlobalAveragePool", node.name, {}, [source], [result]))
        else:
            pooled = gs.Variable(f"{node.name}/pooled", result.dtype)
            last = gs.Constant(f"{node.name}/axes", np.array(spatial, np.int64))
            name = f"{node.name}/Squeeze"
            graph.nodes += [
                gs.Node("GlobalAveragePool", node.name, {}, [source], [pooled]),
                gs.Node("Squeeze", name, {}, [pooled, last], [result]),
            ]
        made += 1
    return made


def _axes(node: gs.Node) -> Array | None:
    """Axes are an attribute up to opset 17, an input from 18 on."""
    given = node.attrs.get("axes")
    return np.asarray(given) if given is not None else values_of(node, 1)
