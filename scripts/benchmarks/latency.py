"""INT8 over float latency in onnxruntime: our files and quantize_static's against the float one.

CPU provider, one thread, batch 1. The sessions run in turn, some 20 ms each, so that a busy
neighbour slows them alike and caches are warm; a ratio is that of one such turn. Weights are random
unless a safetensors file is given: time does not depend on them. Printed: median [lower quartile,
upper quartile] of the file as placed, without speed passes; fast, with them; static, what
onnxruntime.quantization makes of the float file, uint8 and int8 per channel; and of one made for
TensorRT: apart, still int8, each reader of codes with a Q of its own; retargeted, from the file
alone, for onnxruntime.

    python scripts/benchmarks/latency.py resnet20 resnet18
    python scripts/benchmarks/latency.py resnet18_tensorrt resnet18_portable
    python scripts/benchmarks/latency.py resnet20 --weights resnet20.safetensors --runs 300
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from measuring import Times, arguments
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from safetensors.torch import load_file
from torch import nn

import qdq
from models import mobilenetv2, resnet, squeezenet, transformer
from qdq.graph import retarget
from qdq.graph.speed import PASSES, speed_up_file
from qdq.targets.target import TargetLike

SIGNED = qdq.targets.get("onnxruntime", activation=qdq.QuantSpec())
# Factory, shape of one input, for whom pairs are placed.
MODELS = {
    "resnet20": (resnet.resnet20, (3, 32, 32), "onnxruntime"),
    "resnet18": (resnet.resnet18, (3, 224, 224), "onnxruntime"),
    "resnet18_signed": (resnet.resnet18, (3, 224, 224), SIGNED),
    "resnet18_portable": (resnet.resnet18, (3, 224, 224), "tensorrt:portable"),
    "resnet18_tensorrt": (resnet.resnet18, (3, 224, 224), "tensorrt"),
    "resnet50": (resnet.resnet50, (3, 224, 224), "onnxruntime"),
    "mobilenet_v2": (mobilenetv2.mobilenet_v2, (3, 224, 224), "onnxruntime"),
    "mobilenet_v2_tf": (mobilenetv2.mobilenet_v2_tf, (3, 224, 224), "onnxruntime"),
    "squeezenet1_1": (squeezenet.squeezenet1_1, (3, 224, 224), "onnxruntime"),
    "bert_layer": (
        partial(transformer.EncoderBlock, 384, 12, torch_attention=False),
        (128, 384),
        "onnxruntime",
    ),
}


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """As deployed, but for threads that spin while the other session runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def calls_per_turn(run: Callable[[], object]) -> int:
    """How many calls take some 20 ms."""
    run()
    start = time.process_time()
    run()
    return max(1, round(0.02 / max(time.process_time() - start, 1e-5)))


def repeat(run: Callable[[], object], times: int) -> None:
    """Call it several times."""
    for _ in range(times):
        run()


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """One batch, once."""

    def __init__(self, x: torch.Tensor) -> None:
        self._rows = iter([{"x": x.numpy()}])

    def get_next(self) -> object:
        """The batch, then None."""
        return next(self._rows, None)


def write_static(paths: dict[str, Path], x: torch.Tensor) -> None:
    """Onnxruntime's own quantizer at its fastest setting."""
    logging.disable(logging.WARNING)  # that the float file was not preprocessed
    quantize_static(
        paths["float"],
        paths["static"],
        Rows(x),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    logging.disable(logging.NOTSET)


def write(model: nn.Module, x: torch.Tensor, target: TargetLike, folder: Path) -> dict[str, Path]:
    """The float file with BatchNorm folded, and ours as placed and as rewritten for speed."""
    runtime = qdq.targets.get(target)
    names = ["float", "placed", "fast"]
    names += ["apart", "retargeted"] if runtime.name == "tensorrt" else ["static"]
    paths = {name: folder / f"{name}.onnx" for name in names}
    qdq.fuse(model.eval())
    torch.onnx.export(model, (x[:1],), paths["float"], dynamo=False, input_names=["x"])
    qdq.insert(model, x, target=runtime)
    qdq.calibrate(model, [x], method="max", progress=False)
    qdq.export_onnx(model, x[:1], paths["placed"], input_names=["x"], skip_passes=list(PASSES))
    for name, reader in (("fast", "onnxruntime"), ("apart", runtime)):
        if name in paths:
            done = speed_up_file(paths["placed"], paths[name], target=reader)
            print(f"  {name}:", ", ".join(f"{each} {n}" for each, n in done.items() if n))
    if "static" in paths:
        write_static(paths, x[:1])
    else:
        data = [{"x": x[:1].numpy()}]
        print(" ", retarget(paths["placed"], paths["retargeted"], "onnxruntime", data=data))
    return paths


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, runs=60)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--weights", help="safetensors file of the one model that is named")
    asked = parser.parse_args()
    if set(asked.models) - set(MODELS) or (asked.weights and len(asked.models) != 1):
        parser.error(f"choose from {', '.join(MODELS)}; with --weights, one")
    warnings.simplefilter("ignore")  # of the exporter that writes a true opset 13
    onnxruntime.set_default_logger_severity(3)  # of constants of the float file that nobody reads
    torch.manual_seed(0)
    print(f"onnxruntime {onnxruntime.__version__}, {asked.threads} thread(s), batch 1, CPU time")
    for name in asked.models:
        build, shape, target = MODELS[name]
        model, x = build(), torch.randn(4, *shape)
        if asked.weights:
            model.load_state_dict(load_file(asked.weights))
        else:
            model(x)  # in training mode: BatchNorm sees what activations there are
        with tempfile.TemporaryDirectory() as folder:
            paths = write(model, x, target, Path(folder))
            runs = {key: session(path, asked.threads) for key, path in paths.items()}
        calls = {key: partial(run.run, None, {"x": x[:1].numpy()}) for key, run in runs.items()}
        count = calls_per_turn(calls["float"])
        jobs = {key: partial(repeat, call, count) for key, call in calls.items()}
        times = Times(jobs, asked.runs, per=count)
        ratios = ", ".join(f"{key} {times.ratio(key, 'float')}" for key in runs if key != "float")
        spent = ", ".join(f"{key} {times.spent(key)}" for key in runs)
        print(f"{name:15} {ratios}   {spent}", flush=True)


if __name__ == "__main__":
    main()
