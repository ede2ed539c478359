"""The files that commands write beside what they say."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qdq.errors import InputError


@contextmanager
def report_file(path: Path | None, others: Iterable[Path | None]) -> Iterator[Path | None]:
    """A file that takes the report's name if all goes well; None where none is asked for.

    Args:
        path: what the user wants it to be called.
        others: what else the command reads and writes.

    Raises:
        InputError: it cannot be written, before any work; or it would take the place of another.
    """
    from qdq.records.base import written_whole

    if path is None:
        yield None
        return
    if path.resolve() in [each.resolve() for each in others if each is not None]:
        raise InputError(
            "the report would take the place of another file of this command",
            at=str(path),
            fix="name another file",
        )
    with written_whole(path) as temporary:
        yield temporary
