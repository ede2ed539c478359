"""retarget: anyone's Q/DQ file rewritten from one target's form into another's."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from qdq.errors import GraphError, QdqError, SpecError
from qdq.graph.quantizing.feeding import Data, Feed, feeds
from qdq.graph.retargeting.clamps import keep_clamps
from qdq.graph.retargeting.conversion import Conversion
from qdq.graph.retargeting.evidence import described, gap, random_batches
from qdq.graph.retargeting.marking import mark
from qdq.graph.retargeting.reading import read_quantized
from qdq.graph.retargeting.writing import Rewritten, rewritten
from qdq.numerics.thresholds import METHODS
from qdq.records.base import written_whole
from qdq.records.retargeting import RetargetReport
from qdq.targets import Target, get
from qdq.targets.target import TargetLike

_BATCHES = 16  # of the data that are kept, to run both files on


def retarget(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    target: TargetLike,
    *,
    match: bool = False,
    data: Data | None = None,
    method: str = "mse",
    skip_passes: Collection[str] = (),
) -> RetargetReport:
    """Rewrite a Q/DQ file, whoever made it, into the form of another runtime.

    Its pairs are taken out and what they say is kept: ranges, codes, clamps. Then pairs are placed
    anew as the target wants them, where a range is in the file or follows from a neighbour; what
    there is no range for stays float and is named. Codes of weights are kept.

    The report is a certificate: each operator is run alone in both forms, both files are run as a
    whole, on the data or on seeded random inputs, and what could not be kept is listed.

    Args:
        src: a file with QuantizeLinear and DequantizeLinear.
        dst: where to write; whole or not at all. It may be `src`.
        target: the runtime, by name or as a Target; "tensorrt:8" has weights as floats.
        match: keep the steps of the file, so that codes of both files map one to one, even where
            the target's integers would allow finer ones. A step is doubled where codes of the
            target would not reach far enough.
        data: batches of arrays by input name, of a file with one input the arrays alone; the first
            16 are used. Ranges that are missing are then measured on them.
        method: how these are chosen, as `quantize` does.
        skip_passes: speed passes of the target that shall not run, by the names that
            `report.passes` has.

    Raises:
        GraphError: `src` cannot be read, is a float file, or holds integer operators; or
            onnxruntime cannot run it on the data.
        InputError: data that does not fit the inputs, or `dst` cannot be written.
        CalibrationError: the data makes NaN or infinity.
        SpecError: the target has activations of other than 8 bits.
        RegistryError: no such target, method or pass.
    """
    runtime = get(target)
    _require_usable(runtime)
    METHODS[method]  # a misspelled name must not cost a pass over the data
    with written_whole(Path(dst)) as temporary:
        with _in_clear_words(src):
            model = read_quantized(src)
            content = model.SerializeToString()
            work = Conversion.of(model, runtime, match=match)
        batches = _first(work, data)
        with _in_clear_words(src):
            work.measure_missing(batches, method)
            if data is None:
                batches = random_batches(model, work.stripped, at=str(src))
            rows = work.rows()
            seen = work.seen(batches, drawn=data is None)
            grids, losses = work.grid_rows(seen), work.losses(seen)
            written = _written(work, skip_passes, at=Path(dst))
            found = gap(content, written.content, batches, at=str(src)) if batches else None
        temporary.write_bytes(written.content)
    return RetargetReport(
        source=str(src),
        destination=str(dst),
        target=runtime.label,
        match=match,
        evidence=described(batches, drawn=data is None),
        sqnr=None if found is None else found.sqnr,
        largest=None if found is None else found.largest,
        agreement=None if found is None else found.agreement,
        rows=rows,
        grids=grids,
        losses=losses,
        passes=written.passes,
    )


@contextmanager
def _in_clear_words(src: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever graphsurgeon and numpy say to values and types that they do not know."""
    try:
        yield
    except QdqError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise GraphError(
            f"the graph cannot be taken apart: {type(error).__name__}: {said}",
            at=str(src),
            fix="see that onnxruntime runs the file; if it does, please report this with the model",
        ) from error


def _first(work: Conversion, data: Data | None) -> list[Feed]:
    """The batches that are used, by name of the input."""
    if data is None:
        return []
    return list(islice(feeds(work.stripped.graph.inputs, data), _BATCHES))


def _written(work: Conversion, skip_passes: Collection[str], *, at: Path) -> Rewritten:
    keep_clamps(work.stripped, work.plan)
    grids = mark(work.stripped, work.plan, work.target)
    ranges = {each.site: each.range for each in work.plan.roundings}
    graph = work.stripped.graph
    return rewritten(graph, grids, work.model, work.target, ranges, at=at, skip_passes=skip_passes)


def _require_usable(target: Target) -> None:
    if target.activation.bits != 8:
        raise SpecError(
            f"{target.activation} activations: retarget writes 8 bits",
            at=target.name,
            fix="pass a target with 8-bit activations",
        )
