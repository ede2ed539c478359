"""initialize: while it is on, building a float layer gives its quantized twin.

What changes is the constructor of the float class, not the names under which the class is known. So
it works under every name: `nn.Conv2d`, a `Conv2d` imported long before, a default argument, the
`Linear` that `nn.TransformerEncoderLayer` builds inside torch. The classes stay the objects they
are: `isinstance(layer, nn.Conv2d)` holds for float and quantized layers, built before or meanwhile,
and a module first imported meanwhile keeps nothing that would outlive `deactivate`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import nn

from qdq.errors import PolicyError
from qdq.nn.twins import TWINS
from qdq.records.decisions import Decision
from qdq.records.patching import InitializeReport
from qdq.registry import choose_one_of
from qdq.sites import Matcher, Pattern, Patterns

FloatClass = type[nn.Module]


@dataclass(frozen=True)
class _Patch:
    """Two constructors of a float class.

    Attributes:
        own: the one it defines; None where it inherits one.
        building: calls that one, and then makes the layer the twin.
    """

    own: Callable[..., None] | None
    building: Callable[..., None]


_installed: dict[FloatClass, _Patch] = {}  # the classes that build their twins now


def initialize(ignore: Patterns = ()) -> InitializeReport:
    """Let every float class that has a twin build the twin, from now until `deactivate`.

    Covers the classes of torch.nn and the float classes given to `qdq.register` so far. Only
    building is changed: layers that exist stay float, and so do copies and unpickled layers, which
    no constructor makes. A subclass may compute something else: it builds itself, whether it was
    defined before or meanwhile. `type(layer) is nn.Conv2d` is false for a quantized layer; ask
    `isinstance`.

    A second call replaces the first one's `ignore`; one `deactivate` ends both. It holds for every
    thread that builds layers meanwhile; switch it on and off from one thread at a time.

    Args:
        ignore: classes to leave alone: a name (`"Linear"`), a glob (`"Conv*"`), `re:...`, a class
            (its subclasses too), a callable(name, class), or several.

    Returns:
        One decision per class that has a twin, and per subclass known now that builds itself.

    Raises:
        PolicyError: a pattern fits no class, or they leave none. Nothing has changed then.
    """
    report, wanted = _plan(ignore)
    _install({each: _installed.get(each) or _patch(each) for each in wanted})
    return report


def deactivate() -> None:
    """Let float classes build float layers again; without effect where they do.

    Afterwards every class has the very constructor that it had before `initialize`.
    """
    _install({})


@contextmanager
def initialized(ignore: Patterns = ()) -> Iterator[InitializeReport]:
    """`initialize` for a `with` block, which puts back what was, after an exception too.

    Blocks nest: the inner one's `ignore` counts inside it, the outer one's again after it.

    Args:
        ignore: as for `initialize`.

    Raises:
        PolicyError: as for `initialize`.
    """
    before = dict(_installed)
    report = initialize(ignore)
    try:
        yield report
        _install(before)
    except (
        BaseException
    ):  # of the block; or an interrupt, which must not keep torch from going back
        _install(before)
        raise


def _plan(ignore: Patterns) -> tuple[InitializeReport, list[FloatClass]]:
    """What to report, and the classes that shall build their twins."""
    ignored = _ignored(ignore)
    wanted = [each for each in TWINS if each not in ignored]
    if not wanted:
        raise PolicyError(
            "ignore= leaves no class that would build its twin",
            fix="ignore less, or build the model without qdq.initialize",
        )
    rows = [
        Decision(_path(each), "skip", f"ignored by {ignored[each]}")
        if each in ignored
        else Decision(_path(each), "quantize", f"builds {_path(TWINS[each])}")
        for each in TWINS
    ]
    for base in wanted:
        why = f"a subclass of {base.__name__}, which may compute something else: register a twin"
        rows += [Decision(_path(each), "skip", f"{why} for it") for each in _float_subclasses(base)]
    return InitializeReport(tuple(rows)), wanted


def _ignored(ignore: Patterns) -> dict[FloatClass, str]:
    """Each class to leave alone, and the pattern that says so."""
    several = isinstance(ignore, Iterable) and not isinstance(ignore, (str, type))
    patterns: list[Pattern] = list(ignore) if several else [ignore]  # type: ignore[arg-type,list-item]
    found: dict[FloatClass, str] = {}
    for pattern in patterns:
        label = pattern.__qualname__ if isinstance(pattern, type) else repr(pattern)
        fitting = [each for each in TWINS if _fits(pattern, each)]
        if not fitting:
            known = sorted(each.__name__ for each in TWINS)
            raise PolicyError(
                f"ignore pattern {label} fits no class that has a twin",
                fix=choose_one_of(label.strip("'"), known),
            )
        found |= {each: label for each in fitting if each not in found}
    return found


def _fits(pattern: Pattern, float_class: FloatClass) -> bool:
    if isinstance(pattern, type):
        return issubclass(float_class, pattern)
    name = float_class.__name__
    return Matcher(pattern, what="ignore").find(name, {name: float_class}) is not None


def _float_subclasses(base: FloatClass) -> Iterator[FloatClass]:
    """All that derive from a class, but for twins, and what torch and qdq quantize with."""
    for each in base.__subclasses__():
        known = each in TWINS or each in TWINS.values()
        if not known and not each.__module__.startswith(("torch.ao.", "qdq.")):
            yield each
            yield from _float_subclasses(each)


def _path(kind: type) -> str:
    """Where a class is found: `torch.nn.Conv2d`, and for others where they are defined."""
    public = getattr(nn, kind.__name__, None) is kind
    return f"{'torch.nn' if public else kind.__module__}.{kind.__qualname__}"


def _install(wanted: Mapping[FloatClass, _Patch]) -> None:
    """Let these classes build their twins, and no others; an exception leaves all as it was."""
    before = dict(_installed)
    try:
        for each in before:
            if each not in wanted:
                _take_out(each)
        for each in wanted:
            if each not in before:
                _put_in(each, wanted[each])
    except BaseException:
        _install(before)
        raise


def _put_in(float_class: FloatClass, patch: _Patch) -> None:
    float_class.__init__ = patch.building  # type: ignore[method-assign]
    _installed[float_class] = patch


def _take_out(float_class: FloatClass) -> None:
    own = _installed[float_class].own
    if own is None:
        del float_class.__init__
    else:
        float_class.__init__ = own  # type: ignore[method-assign]
    del _installed[float_class]


def _patch(float_class: FloatClass) -> _Patch:
    build: Callable[..., None] = float_class.__init__
    twin = TWINS[float_class]

    @wraps(build)
    def building(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if type(self) is float_class:
            self.__class__ = twin
            self.add_quantizers()  # type: ignore[operator]

    return _Patch(vars(float_class).get("__init__"), building)
