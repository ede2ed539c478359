"""What the user asked for: what stays float, and which sites have a grid of their own."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, TypeAlias

from torch import nn

from qdq.errors import PolicyError
from qdq.nn import QuantWeighted
from qdq.sites import Matcher, Patterns, is_weight, owner
from qdq.spec import QuantSpec
from qdq.targets.opgraph import OpGraph
from qdq.targets.spans import between

# Pattern -> grid; Any, because a Mapping[Pattern, ...] would not take a dict[str, ...].
Specs: TypeAlias = Mapping[Any, QuantSpec]


class Policy:
    """ignore=, only= and spec=, asked name by name.

    A grid of the user's own replaces the target's at every site that its pattern fits, and the
    first pattern that fits decides: `{"head": QuantSpec(bits=16), "*.weight": QuantSpec(bits=4)}`.
    Which axis keeps scales is the layer's business: on a weight, `keep_axis=None` stands for the
    axis it has.

    Args:
        ignore: what to leave float.
        only: leave everything else float; none: quantize all.
        spec: pattern -> grid, of sites (`conv1.weight`) or of what they lie in (`conv1`, a class).
        modules: the model's, by dotted path.
        graph: one forward, for from-to patterns; None where nothing could follow it.

    Raises:
        PolicyError: a pattern that cannot be read, a from-to without a way, or a spec that is no
            mapping to grids.
    """

    def __init__(
        self,
        ignore: Patterns,
        only: Patterns,
        spec: Specs,
        modules: Mapping[str, nn.Module],
        graph: OpGraph | None,
    ) -> None:
        way = partial(_between, graph)
        self._modules = modules
        self._ignore = Matcher(ignore, what="ignore", between=way)
        self._only = Matcher(only, what="only", between=way)
        self._grids = _grids(spec)
        self._spec = Matcher(list(spec), what="spec", between=way)
        self._names: list[str] = []

    def refuses(self, name: str) -> str:
        """Why the user wants this module or call site left float; empty if they do not."""
        self._names.append(name)
        ignored, wanted = (each.find(name, self._modules) for each in (self._ignore, self._only))
        if ignored:
            return f"ignored by {ignored}"
        return "only= does not name it" if self._only and not wanted else ""

    def finish(self) -> None:
        """PolicyError for a pattern of ignore= or only= that fitted nothing."""
        for matcher in (self._ignore, self._only):
            matcher.refuse_idle(name for name in self._names if name)

    def specs_for(self, sites: Collection[str]) -> dict[str, QuantSpec]:
        """The sites that have a grid of the user's own, and that grid.

        Args:
            sites: every site of the model, quantizers in place.

        Raises:
            PolicyError: a pattern of spec= fits nothing, or only what earlier ones fit; or a grid
                keeps scales along an axis that keeps none there.
        """
        deciding = {site: self._spec.index(site, self._modules) for site in sites}
        self._spec.refuse_idle(sites)
        for index, label in enumerate(self._spec.labels):
            if index not in deciding.values():
                raise PolicyError(
                    f"spec pattern {label} decides nothing: earlier ones fit all that it fits",
                    fix="put it before the wider ones, or remove it",
                )
        chosen = {site: index for site, index in deciding.items() if index is not None}
        for site, index in chosen.items():
            self._require_axis(site, self._grids[index].keep_axis, self._spec.labels[index])
        return {site: self._grids[index] for site, index in chosen.items()}

    def _require_axis(self, site: str, axis: int | None, label: str) -> None:
        layer = self._modules.get(owner(site))
        if axis is None:
            return
        if not is_weight(site):
            has = "one scale in all"
        elif isinstance(layer, QuantWeighted) and axis not in range(layer.weight.dim()):
            has = f"{layer.weight.dim()} axes"
        else:
            return
        raise PolicyError(
            f"spec pattern {label} keeps scales along axis {axis} of a tensor that has {has}",
            at=site,
            fix="leave keep_axis out, or name weights alone, as in '*.weight', and an axis of them",
        )


def _grids(spec: Specs) -> list[QuantSpec]:
    if not isinstance(spec, Mapping):
        raise PolicyError(
            f"spec is a {type(spec).__name__}, not patterns with a QuantSpec each",
            fix="write spec={'*': qdq.QuantSpec(bits=8)}",
        )
    for pattern, grid in spec.items():
        if not isinstance(grid, QuantSpec):
            raise PolicyError(
                f"spec gives {pattern!r} a {type(grid).__name__}, which is no QuantSpec",
                fix="write spec={pattern: qdq.QuantSpec(bits=8)}",
            )
    return list(spec.values())


def _between(graph: OpGraph | None, first: str, last: str) -> frozenset[str]:
    if graph is None:
        raise PolicyError(
            "what lies between two modules is not known: torch.fx cannot follow this forward",
            at=f"{first}->{last}",
            fix="pass example_inputs to qdq.insert, so that one forward can be recorded",
        )
    return between(graph, first, last)
