"""Small graphs drawn node by node, and what onnxruntime makes of them."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

Rewrite = Callable[[gs.Graph], None]
LEVELS = ort.GraphOptimizationLevel


class Sketch:
    """Builds a graph node by node; every method gives the tensor it made."""

    def __init__(self, *shape: int | str, opset: int = 13) -> None:
        self.graph = gs.Graph(opset=opset)
        self.x = self.input("x", *shape)
        self._taken: Counter[str] = Counter()

    def input(self, name: str, *shape: int | str) -> gs.Variable:
        result = gs.Variable(name, np.float32, shape)
        self.graph.inputs.append(result)
        return result

    def node(self, op: str, *inputs: gs.Tensor, out: Any = np.float32, **attrs: Any) -> gs.Tensor:
        name = f"{op}_{self._taken[op]}"
        self._taken[op] += 1
        result = gs.Variable(f"{name}.out", out)
        self.graph.nodes.append(gs.Node(op, name, attrs, list(inputs), [result]))
        return result

    def constant(self, name: str, values: Any) -> gs.Constant:
        return gs.Constant(name, np.asarray(values))

    def pair(
        self, x: gs.Tensor, site: str, scale: float = 0.1, point: int = 0, kind: Any = np.uint8
    ) -> gs.Tensor:
        """QuantizeLinear and DequantizeLinear with operands of their own."""
        operands = [
            self.constant(f"{site}.scale", np.float32(scale)),
            self.constant(f"{site}.zero_point", kind(point)),
        ]
        codes, values = gs.Variable(f"{site}.codes", kind), gs.Variable(site, np.float32)
        self.graph.nodes += [
            gs.Node("QuantizeLinear", f"{site}/QuantizeLinear", {}, [x, *operands], [codes]),
            gs.Node(
                "DequantizeLinear", f"{site}/DequantizeLinear", {}, [codes, *operands], [values]
            ),
        ]
        return values

    def weight(self, site: str, codes: Any, scale: Any, axis: int | None = None) -> gs.Tensor:
        """Int8 codes behind a DequantizeLinear."""
        scale = np.asarray(scale, np.float32)
        inputs = [
            self.constant(f"{site}.codes", np.asarray(codes, np.int8)),
            self.constant(f"{site}.scale", scale),
            self.constant(f"{site}.zero_point", np.zeros(scale.shape, np.int8)),
        ]
        result = gs.Variable(site, np.float32)
        attrs = {} if axis is None else {"axis": axis}
        self.graph.nodes.append(
            gs.Node("DequantizeLinear", f"{site}/DequantizeLinear", attrs, inputs, [result])
        )
        return result

    def conv(self, x: gs.Tensor, weight: gs.Tensor | None = None) -> gs.Tensor:
        """A convolution of one channel, 2x2, with a float weight unless one is given."""
        taken = self._taken["Conv"]
        values = np.float32([[[[0.5, -1.0], [0.25, 2.0]]]])
        return self.node("Conv", x, weight or self.constant(f"kernel_{taken}", values))

    def integer_conv(
        self, x: gs.Tensor, *shape: int, bias: str = "int32", input_scale: float = 0.1, **attrs: Any
    ) -> gs.Tensor:
        """A convolution with int8 weights (out, in / groups, kernel...), one scale per channel."""
        site = f"conv_{self._taken['Conv']}"
        rng = np.random.default_rng(self._taken["Conv"])
        scales = rng.uniform(0.01, 0.02, shape[0]).astype(np.float32)
        inputs = [x, self.weight(f"{site}.weight", rng.integers(-127, 128, shape), scales, 0)]
        if bias == "int32":
            steps = np.float32(input_scale) * scales
            codes = self.constant(f"{site}.bias.codes", rng.integers(-99, 99, shape[0], np.int32))
            result = gs.Variable(f"{site}.bias", np.float32)
            operands = [codes, self.constant(f"{site}.bias.scale", steps)]
            name = f"{site}.bias/DequantizeLinear"
            node = gs.Node("DequantizeLinear", name, {"axis": 0}, operands, [result])
            self.graph.nodes.append(node)
            inputs.append(result)
        elif bias == "float":
            values = rng.uniform(-1, 1, shape[0]).astype(np.float32)
            inputs.append(self.constant(f"{site}.bias", values))
        return self.node("Conv", *inputs, kernel_shape=list(shape[2:]), **attrs)

    def done(self, *results: gs.Tensor, rank: int | None = None) -> gs.Graph:
        """The graph with these outputs; `rank` where their shape does not follow."""
        for result in results:
            result.dtype = np.float32
            if rank is not None:
                result.shape = [f"{result.name}_{axis}" for axis in range(rank)]
        self.graph.outputs = list(results)
        return self.graph


def ops(graph: gs.Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def results(
    graph: gs.Graph, level: Any = LEVELS.ORT_DISABLE_ALL, sizes: Mapping[str, int] | None = None
) -> list[Any]:
    """Unoptimized onnxruntime on fixed values that hit ties, borders and both signs.

    Args:
        graph: with float inputs.
        level: of optimizations.
        sizes: what the names in the inputs' shapes stand for.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(written(graph), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {}
    for each in graph.inputs:
        shape = [(sizes or {}).get(size, size) for size in each.shape]
        values = np.linspace(-3, 3, int(np.prod(shape)), dtype=np.float32)
        values[::3] = np.round(values[::3] * 20) / 20
        feeds[each.name] = rng.permutation(values).reshape(shape)
    return list(session.run(None, feeds))


def executed(graph: gs.Graph) -> Counter[str]:
    """The ops that are left when onnxruntime has optimized the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        ort.InferenceSession(written(graph), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    return Counter(node.op_type for node in nodes)


def written(graph: gs.Graph) -> bytes:
    """The graph as a checked file."""
    model = gs.export_onnx(graph.copy().cleanup().toposort())
    model.ir_version = 8  # onnx may be newer than onnxruntime
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def rewritten(graph: gs.Graph, rewrite: Rewrite) -> gs.Graph:
    """The graph after the pass, which must not have changed a single bit of what it computes."""
    before = results(graph)
    rewrite(graph)
    after = results(graph)
    assert len(before) == len(after)
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)
    graph.cleanup().toposort()
    return graph


def counted(
    graph: gs.Graph,
    rewrite: Callable[[gs.Graph], int],
    *,
    level: Any = LEVELS.ORT_DISABLE_ALL,
    sizes: Mapping[str, int] | None = None,
) -> int:
    """How many places the pass rewrote, which must not have changed a single bit."""
    before = results(graph, level, sizes)
    count = rewrite(graph)
    graph.cleanup().toposort()
    for first, second in zip(before, results(graph, level, sizes), strict=True):
        np.testing.assert_array_equal(first, second)
    return count
