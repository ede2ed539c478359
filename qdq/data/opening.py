"""A source by its name: the one module that has seen them all register."""

from collections.abc import Iterable

import qdq.data.images  # noqa: F401 - it registers its sources
from qdq.data.sources import SOURCES, Request, call_named

__all__ = ["SOURCES", "open_source"]


def open_source(name: str, request: Request) -> Iterable[object]:
    """The batches of a source, as often as one likes to iterate.

    Args:
        name: a registered source, or the user's own `package.module:function(split, batch_size)`.
        request: what is wanted.

    Raises:
        InputError: the function cannot be imported, or fails; or the source finds no data.
        RegistryError: no source of that name.
    """
    if ":" in name:
        return call_named(name, request.split, request.batch_size, what="data")  # type: ignore[no-any-return]
    return SOURCES[name](request)
