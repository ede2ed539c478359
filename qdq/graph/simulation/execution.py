"""A graph, run node by node: what computes on codes in numpy, the rest by onnxruntime."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qdq.graph.edges import Array
from qdq.graph.linting.reading import subgraphs
from qdq.graph.simulation import (  # noqa: F401 - they register their kernels
    conversions,
    elementwise,
    functions,
    movement,
    pooling,
    products,
)
from qdq.graph.simulation.kernels import KERNELS, Kernel
from qdq.graph.simulation.sessions import Alone
from qdq.records.simulation import By


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node on its turn.

    Attributes:
        node: as the optimizer wrote it.
        kernel: what simulates it; None where onnxruntime runs it.
        attributes: of the node, by name.
        reads: names of all it reads, in branches and bodies too.
    """

    node: onnx.NodeProto
    kernel: Kernel | None
    attributes: Mapping[str, Any]
    reads: tuple[str, ...]


class Execution:
    """An optimized graph in steps.

    Args:
        model: as onnxruntime's optimizer wrote it.
        path: the file it was made from.

    Attributes:
        steps: in the order of the graph, which is one to run them in.
        constants: name -> what an initializer holds.
    """

    def __init__(self, model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
        folder = str(Path(path).absolute().parent)
        self.steps = [_step(node) for node in model.graph.node]
        self.constants: dict[str, Array] = {
            each.name: numpy_helper.to_array(each, folder) for each in model.graph.initializer
        }
        self._alone = Alone(model, path)

    def run(self, step: Step, values: Mapping[str, Array]) -> tuple[dict[str, Array], By]:
        """What a step makes, by name, and who computed it.

        Args:
            step: one of ours.
            values: all it reads but constants, by name.

        Raises:
            GraphError: nothing simulates it, and onnxruntime does not run it alone.
        """
        node = step.node
        known = {name: values[name] for name in step.reads if name in values}
        held = {name: self.constants[name] for name in step.reads if name not in known}
        names = [name for name in node.output if name]
        both = known | held
        full = all(each.size for each in both.values() if isinstance(each, np.ndarray))
        if step.kernel is not None and full and names == [node.output[0]]:
            with np.errstate(all="ignore"):  # infinities saturate
                made = step.kernel(
                    step.attributes, [both[each] if each else None for each in node.input]
                )
            if made is not None:
                return {names[0]: np.asarray(made)}, "numpy"
        results = self._alone.run(node, known, held)
        return dict(zip(names, results, strict=True)), "onnxruntime"


def _step(node: onnx.NodeProto) -> Step:
    domain = "" if node.domain == "ai.onnx" else node.domain
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    reads = dict.fromkeys([*(each for each in node.input if each), *_from_outside(node)])
    return Step(node, KERNELS.get((domain, node.op_type)), attributes, tuple(reads))


def _from_outside(node: onnx.NodeProto) -> Iterator[str]:
    """What branches and bodies of a node read and do not make themselves."""
    holder = onnx.GraphProto(node=[node])
    for _, graph in subgraphs(holder):
        own = {each.name for each in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        for inner in graph.node:
            read = (*inner.input, *_from_outside(inner))
            yield from (name for name in read if name and name not in own)
        yield from (each.name for each in graph.output if each.name not in own)
