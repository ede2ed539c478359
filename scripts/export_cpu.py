"""A trained LeNet into an INT8 file for onnxruntime's CPU provider, step by step.

Weights are those of models/weights, images scikit-learn's digits (no download). Shows what each
form of the file costs: opset 13 and the newest, float rest in half, codes as input. One minute.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import qdq
from qdq.data.sources import digits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from models.lenet import lenet_digits  # noqa: E402  (needs the repository root on the path)

FORMS = {
    "model": {},
    "opset18": {"opset": 18},
    "half": {"precision": "float16"},
    "codes": {"input": "uint8_nhwc"},
}


def main() -> None:
    """Walk through the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/export_cpu"), help="(%(default)s)")
    (out := parser.parse_args().out).mkdir(parents=True, exist_ok=True)
    image = torch.zeros(1, 1, 32, 32)

    print("1. the float model")
    model = lenet_digits().eval()
    model.load_state_dict(load_file(ROOT / "models/weights/lenet_digits.safetensors"))
    reference = lenet_digits().eval()
    reference.load_state_dict(model.state_dict())

    print("2. quantizers where onnxruntime wants Q/DQ")
    print(qdq.insert(model, image, target="onnxruntime"))

    print("3. ranges from the training images")
    print(qdq.calibrate(model, digits("train", 64), progress=False))

    print("4. the files")
    reports = {
        name: qdq.export_onnx(model, image, out / f"{name}.onnx", **form)
        for name, form in FORMS.items()
    }
    for report in reports.values():
        print(report)

    print("5. what onnxruntime's rules say of the file")
    print(qdq.graph.lint(out / "model.onnx", "onnxruntime"))

    print("6. the file against the float model and the simulation, on images it has not seen")
    both = {"float": reference, "simulated": model}
    print(qdq.validate(out / "model.onnx", digits("test", 64), reference=both, progress=False))

    print(f"\n{'file':10}{'opset':>6}{'bytes':>9}{'sites':>6}{'passes':>7}")
    for name, report in reports.items():
        done = sum(report.passes.values())
        print(f"{name:10}{report.opset:6}{report.bytes:9,}{len(report.rows):6}{done:7}")


if __name__ == "__main__":
    main()
