"""Sizes of dimensions that vary, as commands take them."""

from collections.abc import Sequence

from qdq.errors import InputError


def read_sizes(texts: Sequence[str]) -> dict[str, int]:
    """NAME=8 as a name and a number.

    Raises:
        InputError: a text is none.
    """
    sizes = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise InputError(
                f"--size {text!r} is no dimension and its length", fix="write --size batch=8"
            )
        sizes[name] = int(number)
    return sizes
