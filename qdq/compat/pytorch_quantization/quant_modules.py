"""initialize: from now on torch.nn.X builds QuantX; deactivate puts torch.nn back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch

import qdq.compat.pytorch_quantization.nn as quant_nn
from qdq.compat.pytorch_quantization.utils.quant_logging import logger

CustomMap: TypeAlias = Iterable[tuple[Any, str, Any]]


class QuantEntry(NamedTuple):
    """One name to replace.

    Attributes:
        orig_mod: the module object that holds the name.
        mod_name: the name.
        replace_mod: what it shall stand for.
    """

    orig_mod: Any
    mod_name: str
    replace_mod: Any


_quant_entry = QuantEntry

_DEFAULT_QUANT_MAP = [
    QuantEntry(torch.nn, name, getattr(quant_nn, f"Quant{name}"))
    for name in (
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "ConvTranspose1d",
        "ConvTranspose2d",
        "ConvTranspose3d",
        "Linear",
        "LSTM",
        "LSTMCell",
        "AvgPool1d",
        "AvgPool2d",
        "AvgPool3d",
        "AdaptiveAvgPool1d",
        "AdaptiveAvgPool2d",
        "AdaptiveAvgPool3d",
    )
]


class QuantModuleReplacementHelper:
    """Replaces names, and puts back what they stood for.

    Attributes:
        default_quant_map: what is replaced unless told otherwise; users append and remove.
        quant_map: what `apply_quant_modules` replaces.
        orginal_func_map: what the replaced names stood for; empty while nothing is replaced.
    """

    def __init__(self) -> None:
        self.default_quant_map: list[QuantEntry] = _DEFAULT_QUANT_MAP
        self.quant_map: set[QuantEntry] = set()
        self.orginal_func_map: set[QuantEntry] = set()

    def prepare_state(
        self,
        float_module_list: Iterable[str] | None = None,
        custom_map: CustomMap | None = None,
    ) -> None:
        """Say what `apply_quant_modules` shall replace; what was said before is forgotten.

        Args:
            float_module_list: names of the default map to leave alone.
            custom_map: (module object, name, replacement), whatever `float_module_list` says.

        Raises:
            AttributeError: a module object has no such name.
        """
        left = set(float_module_list or ())
        entries = [entry for entry in self.default_quant_map if entry.mod_name not in left]
        entries += [QuantEntry(*entry) for entry in custom_map or ()]
        for entry in entries:
            getattr(entry.orig_mod, entry.mod_name)
        # The last one to name a place has it.
        self.quant_map = set({entry[:2]: entry for entry in entries}.values())

    def apply_quant_modules(self) -> None:
        """Replace, all or nothing; what was replaced before is put back first."""
        self.restore_float_modules()
        try:
            for entry in self.quant_map:
                original = getattr(entry.orig_mod, entry.mod_name)
                setattr(entry.orig_mod, entry.mod_name, entry.replace_mod)
                self.orginal_func_map.add(entry._replace(replace_mod=original))
        except BaseException:
            self.restore_float_modules()
            raise

    def restore_float_modules(self) -> None:
        """Every replaced name stands for the very object it stood for."""
        while self.orginal_func_map:
            entry = self.orginal_func_map.pop()
            setattr(entry.orig_mod, entry.mod_name, entry.replace_mod)


_quant_module_helper_object = QuantModuleReplacementHelper()


def initialize(
    float_module_list: Iterable[str] | None = None,
    custom_quant_modules: CustomMap | None = None,
) -> None:
    """Let torch.nn's names stand for the quantized classes until `deactivate`.

    Only names that are looked up afterwards, as `torch.nn.X` or `nn.X`, are reached: not those
    that a module imported before, and not the Linear inside nn.MultiheadAttention and
    nn.TransformerEncoderLayer. Called again, the new arguments count and the old ones no more.

    Args:
        float_module_list: names to leave alone, as "Linear".
        custom_quant_modules: (module object, name, replacement), replaced in any case.

    Raises:
        AttributeError: a module object has no such name.
    """
    _quant_module_helper_object.prepare_state(float_module_list, custom_quant_modules)
    _quant_module_helper_object.apply_quant_modules()
    logger.info(
        "replaced: %s; not reached: layers that torch builds by itself inside others, as the "
        "Linear of nn.TransformerEncoderLayer",
        ", ".join(sorted(entry.mod_name for entry in _quant_module_helper_object.quant_map)),
    )


def deactivate() -> None:
    """Let torch.nn's names stand for what they stood for before `initialize`."""
    _quant_module_helper_object.restore_float_modules()


@contextmanager
def enable_onnx_export() -> Iterator[None]:
    """Inside, a quantizer without a range is an error; afterwards all is as it was before."""
    before = quant_nn.TensorQuantizer._enable_onnx_export
    quant_nn.TensorQuantizer._enable_onnx_export = True
    try:
        yield
    finally:
        quant_nn.TensorQuantizer._enable_onnx_export = before
