"""Runners: whatever takes the inputs of a batch and gives outputs as numpy arrays."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from qdq.data import Inputs, call, device_of, tensors_of, to_device
from qdq.errors import GraphError, InputError
from qdq.graph.code_inputs import noted_inputs
from qdq.nn import callsites

Runner: TypeAlias = Callable[[Inputs], list[NDArray[Any]]]


def torch_runner(model: nn.Module) -> Runner:
    """Runs a torch model without gradients, where it lives."""
    device = device_of(model)

    def run(inputs: Inputs) -> list[NDArray[Any]]:
        try:
            with torch.no_grad():
                outputs = tensors_of(call(model, to_device(inputs, device)))
        except BaseException:
            callsites.reset()
            raise
        return [t.float().cpu().numpy() for t in outputs]

    return run


def session(
    path: str | os.PathLike[str],
    *,
    threads: int = 0,
    providers: Sequence[str] | None = None,
    optimize: bool = True,
) -> onnxruntime.InferenceSession:
    """An onnxruntime session.

    Args:
        path: the ONNX file.
        threads: of one operator; 0: onnxruntime's choice.
        providers: execution providers; None: the CPU's.
        optimize: let onnxruntime rewrite the graph.

    Raises:
        GraphError: no such file, or onnxruntime refuses it.
    """
    if not Path(path).is_file():
        raise GraphError("there is no such ONNX file", at=str(path), fix="check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers or ["CPUExecutionProvider"])
        )
    except Exception as error:
        raise GraphError(
            f"onnxruntime refuses this file: {str(error).splitlines()[0]}",
            at=str(path),
            fix="run onnx.checker.check_model on it, and check the providers",
        ) from error


# What a floating input of each type is fed as.
_FLOATS: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def feed(opened: onnxruntime.InferenceSession, inputs: Inputs) -> dict[str, NDArray[Any]]:
    """The inputs under the names of the file: keywords by name, everything else in order.

    Floats are given in the precision that the file takes, or as the codes that it takes.

    Raises:
        InputError: another number of inputs than the file has, or other names.
    """
    kinds = {each.name: _FLOATS.get(each.type) for each in opened.get_inputs()}
    names = list(kinds)
    arrays = [_array(tensor) for tensor in tensors_of(inputs)]
    if isinstance(inputs, dict) and set(inputs) == set(names):
        arrays = [_array(inputs[name]) for name in names]
    elif isinstance(inputs, dict) and len(arrays) == len(names) and set(inputs) & set(names):
        raise InputError(
            f"the file takes {', '.join(names)} and the batch has {', '.join(inputs)}",
            fix="name the keywords of a batch as the inputs of the file",
        )
    if len(arrays) != len(names):
        raise InputError(
            f"the file takes {len(names)} inputs ({', '.join(names)}) and the batch has "
            f"{len(arrays)}",
            fix="pass batches as the exported model took them",
        )
    given = {name: _as(array, kinds[name]) for name, array in zip(names, arrays, strict=True)}
    for name, each in noted_inputs(opened.get_modelmeta().custom_metadata_map).items():
        if name in given and np.issubdtype(given[name].dtype, np.floating):
            given[name] = each.codes_of(given[name])
    return given


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """Numpy has no bfloat16."""
    held = tensor.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()


def _as(array: NDArray[Any], kind: type[np.floating[Any]] | None) -> NDArray[Any]:
    floating = kind is not None and np.issubdtype(array.dtype, np.floating)
    return array.astype(kind, copy=False) if floating else array


def onnx_runner(opened: onnxruntime.InferenceSession) -> Runner:
    """Runs a session.

    The runner raises InputError where onnxruntime does not take the inputs.
    """

    def run(inputs: Inputs) -> list[NDArray[Any]]:
        arrays = feed(opened, inputs)
        try:
            return [np.asarray(each) for each in opened.run(None, arrays)]
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(
                f"onnxruntime does not take {shapes}: {str(error).splitlines()[0]}",
                fix="pass batches as the exported model took them",
            ) from error

    return run
