"""qdq: a trained PyTorch model into INT8 that is accurate, runs in integers, and shows it.

The names in `__all__` are the public face; each loads its module when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdq import compat, graph, nn, targets
    from qdq.analysis.measuring import sensitivity
    from qdq.calibration.choosing import calibrate, choose_ranges
    from qdq.errors import QdqError
    from qdq.export.writing import export_onnx
    from qdq.insertion.checkpoints import load, save
    from qdq.insertion.fusing import fuse
    from qdq.insertion.initializing import deactivate, initialize, initialized
    from qdq.insertion.placing import retarget
    from qdq.insertion.replacing import insert
    from qdq.insertion.switches import disable_quantization, enable_quantization, quantizers
    from qdq.nn import TensorQuantizer, register
    from qdq.spec import QuantSpec
    from qdq.targets import Target
    from qdq.training.finetuning import finetune
    from qdq.validation.comparing import validate

# Public name -> the module it lives in; "" for a public module.
_HOMES = {
    "QdqError": "qdq.errors",
    "QuantSpec": "qdq.spec",
    "Target": "qdq.targets",
    "TensorQuantizer": "qdq.nn",
    "calibrate": "qdq.calibration.choosing",
    "choose_ranges": "qdq.calibration.choosing",
    "compat": "",
    "deactivate": "qdq.insertion.initializing",
    "disable_quantization": "qdq.insertion.switches",
    "enable_quantization": "qdq.insertion.switches",
    "export_onnx": "qdq.export.writing",
    "finetune": "qdq.training.finetuning",
    "fuse": "qdq.insertion.fusing",
    "graph": "",
    "initialize": "qdq.insertion.initializing",
    "initialized": "qdq.insertion.initializing",
    "insert": "qdq.insertion.replacing",
    "load": "qdq.insertion.checkpoints",
    "nn": "",
    "quantizers": "qdq.insertion.switches",
    "register": "qdq.nn",
    "retarget": "qdq.insertion.placing",
    "save": "qdq.insertion.checkpoints",
    "sensitivity": "qdq.analysis.measuring",
    "targets": "",
    "validate": "qdq.validation.comparing",
}

__all__ = [
    "QdqError",
    "QuantSpec",
    "Target",
    "TensorQuantizer",
    "calibrate",
    "choose_ranges",
    "compat",
    "deactivate",
    "disable_quantization",
    "enable_quantization",
    "export_onnx",
    "finetune",
    "fuse",
    "graph",
    "initialize",
    "initialized",
    "insert",
    "load",
    "nn",
    "quantizers",
    "register",
    "retarget",
    "save",
    "sensitivity",
    "targets",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from qdq.version import version

        return version()
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'qdq' has no attribute {name!r}")
    found = getattr(import_module(home), name) if home else import_module(f"qdq.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
