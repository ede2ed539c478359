"""onnxruntime on a graph as it stands: every tensor of it observed, or a single node run alone."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper, numpy_helper

from qdq.errors import GraphError
from qdq.graph.edges import Array

_FOLDER_OF_DATA = "session.model_external_initializers_file_folder_path"


class Observed:
    """A graph, run as it stands, with tensors within as outputs.

    Args:
        model: whose nodes are run, none of them rewritten.
        path: the file it was made from; weights outside it are looked up in its folder.
        names: of the tensors; None: all that nodes make.

    Raises:
        GraphError: onnxruntime refuses it.

    Attributes:
        session: onnxruntime's.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        path: str | os.PathLike[str],
        names: Collection[str] | None = None,
    ) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        made = (name for node in model.graph.node for name in node.output if name)
        wanted = list(made) if names is None else sorted(names)
        known = {each.name for each in model.graph.output}
        copy.graph.output.extend(
            onnx.ValueInfoProto(name=each) for each in wanted if each not in known
        )
        self.session = opened(copy.SerializeToString(), path, optimize=False)
        self._names, self._path = wanted, str(path)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors by name.

        Args:
            feeds: the arrays of all inputs by name.

        Raises:
            GraphError: onnxruntime does not run it with these outputs.
        """
        if not self._names:  # onnxruntime would take that for all outputs
            return {}
        try:
            found = self.session.run(self._names, dict(feeds))
        except Exception as error:
            raise GraphError(
                f"onnxruntime does not run this file with its inner tensors as outputs: "
                f"{str(error).splitlines()[0]}",
                at=self._path,
                fix="it cannot be looked into: validate without layers=True and exact=True",
            ) from error
        return dict(zip(self._names, found, strict=True))


class Alone:
    """Nodes of a graph, each run in a model of its own.

    Args:
        model: whose nodes these are.
        path: the file it was made from.
    """

    def __init__(self, model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
        self._opsets, self._version, self._path = model.opset_import, model.ir_version, path
        self._sessions: dict[tuple[Any, ...], onnxruntime.InferenceSession] = {}

    def run(
        self, node: onnx.NodeProto, given: Mapping[str, Array], constants: Mapping[str, Array]
    ) -> list[Array]:
        """What a node makes.

        Args:
            node: one of the graph.
            given: what it reads, by name.
            constants: likewise, what is the same in every run.

        Raises:
            GraphError: onnxruntime does not run it.
        """
        try:
            shapes = tuple((name, each.shape, each.dtype.str) for name, each in given.items())
            key = (*node.output, *shapes)
            if key not in self._sessions:
                self._sessions[key] = self._open(node, given, constants)
            made: list[Array] = self._sessions[key].run(None, dict(given))
        except Exception as error:
            raise GraphError(
                f"onnxruntime does not run {node.op_type} alone: {str(error).splitlines()[0]}",
                at=node.name or node.output[0],
                fix="this node cannot be simulated: validate without exact=True",
            ) from error
        return made

    def _open(
        self, node: onnx.NodeProto, given: Mapping[str, Array], constants: Mapping[str, Array]
    ) -> onnxruntime.InferenceSession:
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape
            )
            for name, each in given.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        held = [numpy_helper.from_array(each, name) for name, each in constants.items()]
        graph = helper.make_graph([node], "alone", inputs, outputs, held)
        model = helper.make_model(graph, opset_imports=list(self._opsets), ir_version=self._version)
        return opened(model.SerializeToString(), self._path, optimize=False)


def opened(
    content: bytes, path: str | os.PathLike[str], *, optimize: bool
) -> onnxruntime.InferenceSession:
    """A session on the CPU and one thread.

    Args:
        content: a serialized model.
        path: the file it stems from; weights outside it are looked up in its folder.
        optimize: with all optimizations, as it is run in earnest; else node by node.

    Raises:
        GraphError: onnxruntime refuses it.
    """
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.add_session_config_entry(_FOLDER_OF_DATA, str(Path(path).absolute().parent))
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GraphError(
            f"onnxruntime refuses this file: {str(error).splitlines()[0]}",
            at=str(path),
            fix="run onnx.checker.check_model on it",
        ) from error
