"""An einsum of two tensors that is one matrix product, as that product.

Einsum has no integer kernel anywhere; MatMul has, and so has the Gemm behind `F.linear`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ELLIPSIS = "..."


@dataclass(frozen=True)
class MatrixProduct:
    """Two tensors that `torch.matmul` multiplies, and what becomes of its result.

    Attributes:
        given: the tensors of the einsum.
        operands: the same ones as (..., L, K) and (..., K, N).
        finish: (..., L, N) -> what the einsum gives.
    """

    given: tuple[Tensor, Tensor]
    operands: tuple[Tensor, Tensor]
    finish: Callable[[Tensor], Tensor]

    def run(self, first: Tensor, second: Tensor) -> Tensor:
        """The einsum of these operands in the place of its own."""
        return self.finish(first @ second)


def matrix_product(args: Sequence[Any], kwargs: Mapping[str, Any]) -> MatrixProduct | None:
    """The arguments of `torch.einsum` as one matrix product.

    Args:
        args: an equation and two tensors, one by one or in a list.
        kwargs: none.

    Returns:
        None where it is none: another number of tensors, a letter twice in one of them, a sum
        over one alone, nothing summed, or an axis of both kept beside several of the first.
    """
    equation, *given = args or ("",)
    given = list(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    tensors = len(given) == 2 and all(isinstance(each, Tensor) for each in given)
    if kwargs or not tensors or not isinstance(equation, str):
        return None
    axes = _axes(equation, given[0].dim(), given[1].dim())
    groups = None if axes is None else _grouped(*axes)
    if axes is None or groups is None or not _sums_fit(groups[2], axes, given):
        return None
    batch, rows, summed, columns = groups
    first, second, result = axes
    a = _permuted(given[0], first, [*batch, *rows, *summed])
    b = _permuted(given[1], second, [*batch, *summed, *columns])
    sizes = b.shape[-len(columns) :]
    if len(summed) > 1:
        a = a.flatten(-len(summed))
        b = b.flatten(len(batch), len(batch) + len(summed) - 1)
    b = b.flatten(-len(columns)) if len(columns) > 1 else b

    def finish(product: Tensor) -> Tensor:
        product = torch.unflatten(product, -1, sizes) if len(columns) > 1 else product
        return _permuted(product, [*batch, *rows, *columns], result)

    return MatrixProduct((given[0], given[1]), (a, b), finish)


def _axes(equation: str, *ranks: int) -> tuple[list[str], list[str], list[str]] | None:
    """Names of the axes of both tensors and of the result; None where they do not fit."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return None
    hidden = [
        rank - len(term.replace(_ELLIPSIS, "")) if _ELLIPSIS in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    named = [_named(term, count) for term, count in zip(terms, hidden, strict=True)]
    if [len(each) for each in named] != list(ranks):
        return None
    if not arrow:  # letters that stand once, in the order of the alphabet
        letters = left.replace(",", "").replace(_ELLIPSIS, "")
        once = sorted(each for each in letters if letters.count(each) == 1)
        right = (_ELLIPSIS if _ELLIPSIS in left else "") + "".join(once)
    return named[0], named[1], _named(right, max(hidden))


def _named(term: str, hidden: int) -> list[str]:
    """A name per axis; those of the ellipsis are numbered from the last."""
    before, dots, after = term.partition(_ELLIPSIS)
    return [*before, *(str(-each) for each in range(hidden, 0, -1) if dots), *after]


def _grouped(first: list[str], second: list[str], result: list[str]) -> list[list[str]] | None:
    """Batch, rows, summed, columns; None where these do not make one matrix product."""
    batch = [each for each in first if each in second and each in result]
    summed = [each for each in first if each in second and each not in result]
    rows = [each for each in first if each not in second]
    columns = [each for each in second if each not in first]
    once = all(len(set(each)) == len(each) for each in (first, second, result))
    kept = {*batch, *rows, *columns} == set(result)
    full = bool(rows and summed and columns) and not (batch and len(rows) > 1)
    return [batch, rows, summed, columns] if once and kept and full else None


def _sums_fit(summed: list[str], axes: Sequence[list[str]], given: Sequence[Tensor]) -> bool:
    """Whether no axis of size 1 is summed with a longer one, as einsum can and matmul cannot."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True  # sizes are no numbers then
    first, second = given
    return all(
        first.size(axes[0].index(each)) == second.size(axes[1].index(each)) for each in summed
    )


def _permuted(x: Tensor, axes: list[str], wanted: list[str]) -> Tensor:
    return x if axes == wanted else x.permute([axes.index(each) for each in wanted])
