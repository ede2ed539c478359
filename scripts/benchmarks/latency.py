"""INT8 over float latency in onnxruntime: our file (target onnxruntime) against the float one.

CPU provider, one thread, batch 1. The sessions run in turn, so that a busy neighbour slows both;
a ratio is that of one such pair. Weights are random unless a safetensors file is given: time does
not depend on them. Printed: median [lower quartile, upper quartile].

    python scripts/benchmarks/latency.py resnet20 resnet18
    python scripts/benchmarks/latency.py resnet20 --weights resnet20.safetensors --runs 300
"""

import tempfile
import warnings
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from measuring import Times, arguments
from safetensors.torch import load_file
from torch import nn

import qdq
from models import mobilenetv2, resnet, squeezenet

# Factory, side of an image.
MODELS = {
    "resnet20": (resnet.resnet20, 32),
    "resnet18": (resnet.resnet18, 224),
    "resnet50": (resnet.resnet50, 224),
    "mobilenet_v2": (mobilenetv2.mobilenet_v2, 224),
    "squeezenet1_1": (squeezenet.squeezenet1_1, 224),
}


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """As deployed, but for threads that spin while the other session runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write(model: nn.Module, x: torch.Tensor, folder: Path) -> dict[str, Path]:
    """The float file with BatchNorm folded, and ours."""
    paths = {"float": folder / "float.onnx", "int8": folder / "int8.onnx"}
    qdq.fuse(model.eval())
    torch.onnx.export(model, (x[:1],), paths["float"], dynamo=False, input_names=["x"])
    qdq.insert(model, x, target="onnxruntime")
    qdq.calibrate(model, [x], method="max", progress=False)
    qdq.export_onnx(model, x[:1], paths["int8"], input_names=["x"])
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
    torch.manual_seed(0)
    print(f"onnxruntime {onnxruntime.__version__}, {asked.threads} thread(s), batch 1, CPU time")
    for name in asked.models:
        build, side = MODELS[name]
        model, x = build(), torch.randn(4, 3, side, side)
        if asked.weights:
            model.load_state_dict(load_file(asked.weights))
        with tempfile.TemporaryDirectory() as folder:
            paths = write(model, x, Path(folder))
            runs = {key: session(path, asked.threads) for key, path in paths.items()}
        feed = {"x": x[:1].numpy()}
        times = Times({k: partial(s.run, None, feed) for k, s in runs.items()}, asked.runs)
        spent = ", ".join(f"{key} {times.spent(key)}" for key in runs)
        print(f"{name:14} {times.ratio('int8', 'float')}   {spent}", flush=True)


if __name__ == "__main__":
    main()
