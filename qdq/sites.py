"""Site names, and the one matcher of every pattern (ignore, only, match).

A quantizer sits at a *site* with a stable dotted name: the path of its module and its role there,
`layer1.0.conv1.input`, `layer1.0.conv1.weight`, `head.add.input_1`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

from qdq.errors import PolicyError

# The one set of Python objects a pattern may be; a list of them is a pattern too.
Pattern: TypeAlias = str | type | Callable[[str, object], bool]
Patterns: TypeAlias = Pattern | Iterable[Pattern]
# (first, last) -> every name on the way from the one to the other, both included.
Between: TypeAlias = Callable[[str, str], Collection[str]]

# The child of a module that holds the quantizers of calls in its forward.
CALL_SITES = "_call_sites"
# There it stands for the dots between modules: a container's calls are held by who is around it.
INSIDE = "/"

_ARROW = "->"
_ATTRIBUTE = re.compile(r"^_(?P<role>input|weight|output)_quantizer(?P<many>s)?$")


def site_name(quantizer_path: str) -> str:
    """The site of a quantizer, from where it hangs in the model.

    Args:
        quantizer_path: path among the modules, `conv1._input_quantizer` or
            `add._input_quantizers.1`.

    Returns:
        `conv1.input`, `add.input_1`; a path that follows no convention is its own name. What
        holds the quantizers of call sites is left out: `block._call_sites.add_0` is `block.add_0`.
    """
    parts = quantizer_path.split(".")
    if CALL_SITES in parts:
        holder = parts.index(CALL_SITES)
        parts[holder : holder + 2] = parts[holder + 1].split(INSIDE)
    for depth in (1, 2):
        found = _ATTRIBUTE.match(parts[-depth]) if len(parts) >= depth else None
        if found and bool(found["many"]) == (depth == 2):
            index = f"_{parts[-1]}" if depth == 2 else ""
            return ".".join([*parts[:-depth], found["role"] + index])
    return ".".join(parts)


def owner(site: str) -> str:
    """The module a site belongs to: `conv1.input` -> `conv1`; "" for the root's own."""
    return site.rpartition(".")[0]


def is_weight(site: str) -> bool:
    """Whether it is a weight's: `conv1.weight`, or `lstm.weight_0` where a layer has several."""
    return site.rpartition(".")[2].partition("_")[0] == "weight"


class Matcher:
    """Patterns, asked name by name, remembering which of them ever fitted.

    A pattern is a glob (`layer3.*`), `re:` and a regular expression searched in the name, a class,
    a callable(name, module) -> bool, or a from-to, `layer1->layer3`. It fits a name if it fits the
    name itself or anything the name lies in: `layer3` fits `layer3.0.conv1.weight`, a block's class
    fits all inside the block.

    A from-to names two modules or call sites of a forward, not two globs. It fits whatever computes
    with what the first makes and has a part in what the last computes with, and both ends with all
    that lies in them. A string with an arrow is a from-to, unless it begins with `re:`.

    Args:
        patterns: one pattern or several.
        what: what the patterns are called where they were written ("ignore"), for messages.
        between: what knows the ways of a forward; None: a from-to is refused.

    Raises:
        PolicyError: a pattern is of another type, is no regular expression, or is a from-to that
            names no way.
    """

    def __init__(self, patterns: Patterns, *, what: str, between: Between | None = None) -> None:
        several = isinstance(patterns, Iterable) and not isinstance(patterns, (str, type))
        listed: list[object] = list(patterns) if several else [patterns]  # type: ignore[arg-type]
        self.what = what
        self.labels = tuple(_label(pattern) for pattern in listed)
        self._tests = [_test(pattern, what, between) for pattern in listed]
        self._hits: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._tests)

    def find(self, name: str, modules: Mapping[str, object]) -> str | None:
        """The first pattern that fits `name`, as text; None where none does.

        Args:
            name: dotted name of a module or a site.
            modules: module by dotted path, for the classes and callables.
        """
        index = self.index(name, modules)
        return None if index is None else self.labels[index]

    def index(self, name: str, modules: Mapping[str, object]) -> int | None:
        """As `find`, the number of that pattern."""
        chain = [(part, modules.get(part)) for part in _lineage(name)]
        fitting = [
            index
            for index, test in enumerate(self._tests)
            if any(test(part, module) for part, module in chain)
        ]
        self._hits.update(fitting)
        return fitting[0] if fitting else None

    def refuse_idle(self, known: Iterable[str]) -> None:
        """PolicyError if a pattern fitted nothing it was asked about."""
        for index, label in enumerate(self.labels):
            if index not in self._hits:
                names = sorted(known)
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                raise PolicyError(
                    f"{self.what} pattern {label} fits nothing",
                    fix=f"mend or remove it; there is: {shown or 'nothing to choose from'}",
                )


def _lineage(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _label(pattern: object) -> str:
    if isinstance(pattern, str):
        return repr(pattern)
    return getattr(pattern, "__qualname__", repr(pattern))


def _test(pattern: object, what: str, between: Between | None) -> Callable[[str, object], bool]:
    if isinstance(pattern, str) and pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise PolicyError(
                f"{what} pattern {pattern!r} is no regular expression: {error}",
                fix="write it as Python's re does, or as a glob without 're:'",
            ) from error
        return lambda name, _: expression.search(name) is not None
    if isinstance(pattern, str) and _ARROW in pattern:
        names = _names_between(pattern, what, between)
        return lambda name, _: name in names
    if isinstance(pattern, str):
        return lambda name, _: fnmatchcase(name, pattern)
    if isinstance(pattern, type):
        return lambda _, module: isinstance(module, pattern)
    if callable(pattern):
        return lambda name, module: module is not None and bool(pattern(name, module))
    raise PolicyError(
        f"{what} holds {pattern!r}, which is no pattern",
        fix="use a glob, 're:...', a class, or a callable(name, module) -> bool",
    )


def _names_between(pattern: str, what: str, between: Between | None) -> Collection[str]:
    ends = [end.strip() for end in pattern.split(_ARROW)]
    if len(ends) != 2 or not all(ends):
        raise PolicyError(
            f"{what} pattern {pattern!r} has an arrow and not two ends",
            fix="write 'layer1->layer3', with the names of two modules or call sites",
        )
    if between is None:
        raise PolicyError(
            f"{what} pattern {pattern!r} asks for the way between two modules, and no forward is "
            "known here",
            fix="use a glob, 're:...', a class, or a callable(name, module) -> bool",
        )
    return between(*ends)
