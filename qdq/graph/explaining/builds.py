"""TensorRT, where it is installed: a file in, the layers of its engine out.

Written from TensorRT's documentation. No test of this package runs TensorRT.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from qdq.errors import GraphError, InputError

_ALWAYS_EXPLICIT = 10  # the version from which a network has no implicit batch


def built_layers(path: Path, sizes: Mapping[str, int]) -> tuple[str, str]:
    """Build an engine with int8 and fp16 kernels allowed, which takes minutes, and look into it.

    Args:
        path: an ONNX file.
        sizes: of dimensions with names; others that vary are 1.

    Returns:
        (version of TensorRT, its inspector's JSON).

    Raises:
        InputError: TensorRT is not installed.
        GraphError: TensorRT refuses the file, or builds no engine of it.
    """
    try:
        trt = import_module("tensorrt")
    except ImportError as error:
        raise InputError(
            "TensorRT is not installed here",
            fix="pip install tensorrt where there is an NVIDIA GPU; or build the engine elsewhere "
            "and pass its layers, written with `trtexec --onnx=model.onnx "
            "--profilingVerbosity=detailed --exportLayerInfo=layers.json`",
        ) from error
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = _parsed(trt, builder, logger, path)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.FP16)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.add_optimization_profile(_profile(builder, network, sizes))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphError(
            "TensorRT builds no engine of this file",
            at=str(path),
            fix="lint it for target 'tensorrt', or run trtexec on it for the details",
        )
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    return trt.__version__, inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def _parsed(trt: Any, builder: Any, logger: Any, path: Path) -> Any:
    """The file as TensorRT's network."""
    explicit = int(trt.__version__.partition(".")[0]) < _ALWAYS_EXPLICIT
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if explicit else 0
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise GraphError(
            f"TensorRT refuses this file: {said}",
            at=str(path),
            fix="lint it for target 'tensorrt'",
        )
    return network


def _profile(builder: Any, network: Any, sizes: Mapping[str, int]) -> Any:
    """One shape per input: the sizes that are given, 1 for the rest."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = [
            length if length >= 0 else sizes.get(tensor.get_dimension_name(axis), 1)
            for axis, length in enumerate(tensor.shape)
        ]
        profile.set_shape(tensor.name, shape, shape, shape)
    return profile
