"""numba where it is installed (extra `fast`): loops over numpy arrays as machine code. No torch."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeAlias

Kernel: TypeAlias = Callable[..., Any]


@cache
def numba() -> Any:
    """The module; None where it is not installed, or told not to compile."""
    try:
        module = import_module("numba")
    except ImportError:
        return None
    return None if module.config.DISABLE_JIT else module


@cache
def compiled(kernel: Kernel) -> Kernel:
    """The kernel as machine code, made when it is first called and kept on disk for next time.

    `numba()` must be there.
    """
    make = partial(numba().njit, nogil=True, error_model="numpy")
    try:
        return make(cache=True)(kernel)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in
        return make()(kernel)  # type: ignore[no-any-return]
