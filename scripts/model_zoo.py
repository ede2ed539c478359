"""Quantize models nobody prepared, with random weights, and show how far each one gets.

Per model: do all quantizers off give the float bits (BatchNorms folded), how do files of opset 13
and 17 agree in onnxruntime with the simulation (dB, equal top-1), which calls are quantized.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zoo_calls import Calls, added, quantized_of_found, shown
from zoo_models import Build, Example, built, zoo

import qdq


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Every tensor a model gives."""
    found = model(x)
    several = found.values() if isinstance(found, dict) else found
    return [found] if isinstance(found, Tensor) else [y for y in several if isinstance(y, Tensor)]


def agreement(model: nn.Module, x: Tensor, data: list[tuple[Tensor]], opset: int) -> dict[str, Any]:
    """The file of one opset against the simulation, or why there is no file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            qdq.export_onnx(model, x, path, opset=opset)
            (row,) = qdq.validate(path, data, reference=model, progress=False).rows
        except qdq.QdqError as error:
            return {f"opset {opset}": error.what}
    logits = outputs(model, x)[0].dim() == 2
    return {f"opset {opset}": round(row.sqnr_db, 1)} | ({"top-1": row.agreement} if logits else {})


def tried(build: Build, example: Example, target: str) -> dict[str, Any]:
    """One row: what holds of a model, or the error that ended it."""
    try:
        model, x, data = built(build, example), example(), [(example(),) for _ in range(2)]
        with Calls() as calls:
            outputs(model, x)
        plain = copy.deepcopy(model)
        qdq.fuse(plain, example_inputs=x)
        qdq.insert(model, x, target=target)
        qdq.calibrate(model, data, progress=False)
        with qdq.disable_quantization(model):
            same = all(map(torch.equal, outputs(model, x), outputs(plain, x)))
        files = agreement(model, x, data, 13) | agreement(model, x, data, 17)
    except Exception as error:  # whatever a stranger's model raises belongs into the table
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"off is float": same, **files, "calls": quantized_of_found(model, calls.count)}


def main() -> None:
    """Try the models, print a line for each, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="onnxruntime", help="or tensorrt (%(default)s)")
    parser.add_argument("--only", default="", help="models whose names begin so (all)")
    parser.add_argument("--out", type=Path, help="JSON file to write (none)")
    args = parser.parse_args()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel, and it rounds differently
    rows: dict[str, dict[str, Any]] = {}
    for name, build, example in (each for each in zoo() if each[0].startswith(args.only)):
        rows[name] = tried(build, example, args.target)
        print(f"{name}:", *(f"{key} {shown(said)};" for key, said in rows[name].items()))
    calls = [row["calls"] for row in rows.values() if "calls" in row]
    print(f"{len(calls)} of {len(rows)} models: calls {shown(added(calls))}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
