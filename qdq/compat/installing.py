"""install: `import pytorch_quantization` finds our package of that name."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages
from types import ModuleType

from qdq.errors import StepError

BARE_NAME = "pytorch_quantization"
FULL_NAME = f"qdq.compat.{BARE_NAME}"


def install() -> ModuleType:
    """Let `import pytorch_quantization` and its submodules give the modules of ours.

    Called again, it does nothing. Where absl is not installed, which came with NVIDIA's package,
    `from absl import logging` gives `qdq.compat.absl_logging`.

    Returns:
        The package that stands under the bare name now.

    Raises:
        StepError: NVIDIA's package, or another of that name, can be imported here.
    """
    package = import_module(FULL_NAME)
    if sys.modules.get(BARE_NAME) is package:
        return package
    _refuse_another()
    modules = {BARE_NAME: package}
    for info in walk_packages(package.__path__, prefix=f"{FULL_NAME}."):
        if not info.name.endswith("__main__"):
            modules[info.name.removeprefix("qdq.compat.")] = import_module(info.name)
    if find_spec("absl") is None:
        absl = ModuleType("absl", "Holds nothing but `logging`.")
        absl.logging = import_module("qdq.compat.absl_logging")  # type: ignore[attr-defined]
        modules |= {"absl": absl, "absl.logging": absl.logging}
    sys.modules.update(modules)
    return package


def _refuse_another() -> None:
    loaded = sys.modules.get(BARE_NAME)
    spec = find_spec(BARE_NAME) if loaded is None else loaded.__spec__
    if loaded is not None or spec is not None:
        raise StepError(
            f"another {BARE_NAME} can be imported here",
            at=str(spec.origin if spec else loaded),
            fix=f"uninstall or rename it, or import {FULL_NAME} by its full name",
        )
