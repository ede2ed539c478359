"""A trained LeNet into an INT8 file for TensorRT, step by step, on the GPU where there is one.

Weights are those of models/weights, images scikit-learn's digits (no download). Without CUDA every
step runs on the CPU and says so; the file is the same. One minute.
"""

import argparse
import copy
import sys
from pathlib import Path

import onnxruntime
import torch
from safetensors.torch import load_file

import qdq
from qdq.data.sources import digits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from models.lenet import lenet_digits  # noqa: E402  (needs the repository root on the path)


def main() -> None:
    """Walk through the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/export_gpu"), help="(%(default)s)")
    (out := parser.parse_args().out).mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU: no CUDA here"
    image = torch.zeros(1, 1, 32, 32, device=device)

    print(f"1. the float model, on {where}")
    model = lenet_digits().eval()
    model.load_state_dict(load_file(ROOT / "models/weights/lenet_digits.safetensors"))
    model = model.to(device)
    reference = copy.deepcopy(model)

    print("2. quantizers where TensorRT fuses Q/DQ")
    print(qdq.insert(model, image, target="tensorrt"))

    print(f"3. ranges from the training images, counted on {device.type}")
    print(qdq.calibrate(model, digits("train", 64), progress=False))

    print("4. the file, and its float16 form for engines that run the rest in half")
    report = qdq.export_onnx(model, image, out / "model.onnx")
    half = qdq.export_onnx(model, image, out / "half.onnx", precision="float16")
    print(f"{report}\n{half}")
    if device.type == "cuda":
        moved = qdq.export_onnx(copy.deepcopy(model).cpu(), image.cpu(), out / "moved.onnx")
        equal = "the same bytes" if moved.sha256 == report.sha256 else "OTHER BYTES"
        print(f"from the model moved to the CPU: {equal}")

    print("5. what TensorRT's rules say of the file")
    print(qdq.graph.lint(out / "model.onnx", "tensorrt"))

    cuda = "CUDAExecutionProvider"
    known = onnxruntime.get_available_providers()
    providers = [cuda, "CPUExecutionProvider"] if cuda in known else ["CPUExecutionProvider"]
    print(f"6. the file against float model and simulation, in onnxruntime's {providers[0]}")
    both = {"float": reference, "simulated": model}
    checked = qdq.validate(
        out / "model.onnx",
        digits("test", 64),
        reference=both,
        providers=providers,
        progress=False,
    )
    print(checked)
    print(f"\nbuild the engine: trtexec --onnx={out / 'model.onnx'} --int8 --fp16")

    print(f"\n{'site':22}{'codes':>7}{'scale':>12}{'channels':>9}")
    for row in report.rows:
        print(f"{row.site:22}{row.codes:>7}{row.scale:12.6f}{row.channels:9}")


if __name__ == "__main__":
    main()
