"""Registries filled by decorator: twins are refused, a miss names the known keys."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from qdq.errors import RegistryError

K = TypeVar("K")
V = TypeVar("V")


def choose_one_of(key: object, known: list[str]) -> str:
    """The fix for a misspelled name: the nearest known one first, then all of them."""
    near = get_close_matches(str(key), known, n=1)
    listed = ", ".join(known) or "nothing is registered"
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {listed}"


class Registry(dict[K, V]):
    """A dictionary that joins its entries by decorator.

    Args:
        kind: what the entries are, in the singular, for messages ("target").
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, key: K) -> Callable[[V], V]:
        """Register what the decorator stands on under `key`; RegistryError on a twin."""

        def keep(thing: V) -> V:
            if key in self:
                raise RegistryError(
                    f"two {self.kind}s claim {_label(key)!r}: {self[key]!r} and {thing!r}",
                    fix="give the new one another name",
                )
            self[key] = thing
            return thing

        return keep

    def __missing__(self, key: K) -> V:
        known = sorted(_label(name) for name in self)
        raise RegistryError(
            f"no {self.kind} {_label(key)!r}", fix=choose_one_of(_label(key), known)
        )


def _label(key: object) -> str:
    return key.__qualname__ if isinstance(key, type) else str(key)
