"""Progress bars on long work: on a terminal only, on standard error, gone when the work is done."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    items: Iterable[T], what: str, *, total: int | None = None, shown: bool = True
) -> Iterator[T]:
    """The items one by one, with a bar that says how far they are.

    Args:
        items: anything.
        what: what is being done ("calibrating").
        total: how many items there will be; None where nobody knows.
        shown: False for silence.
    """
    if not shown:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    quiet = not console.is_terminal
    yield from rich_track(
        items, description=what, total=total, console=console, transient=True, disable=quiet
    )
