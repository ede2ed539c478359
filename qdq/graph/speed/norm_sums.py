"""Sums before a layer normalization."""

import onnx_graphsurgeon as gs


def sum_before_norm(graph: gs.Graph) -> int:
    """The Add of two tensors before a LayerNormalization becomes a Sum, which computes the same.

    Requires: nothing; the normalization may be written out, as exporters do below opset 17.
    Ensures: equal results. onnxruntime makes SkipLayerNormalization of Add and LayerNormalization,
    a kernel slower than the two.
    """
    rewritten = 0
    for add in [each for each in graph.nodes if each.op == "Add"]:
        readers = {each.op for each in add.outputs[0].outputs}
        variable = all(isinstance(each, gs.Variable) for each in add.inputs)
        if variable and ("LayerNormalization" in readers or {"ReduceMean", "Sub"} <= readers):
            add.op = "Sum"
            rewritten += 1
    return rewritten
