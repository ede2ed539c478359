"""A calibration that is killed goes on from what it saved last."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import nn

from qdq.calibration.files import Histograms, load_histograms, save_histograms
from qdq.calibration.origins import Origin, difference, digest_of, origin_of
from qdq.data import rows_of
from qdq.errors import InputError


class Resumption:
    """How far a pass over the batches is, and the file that keeps it.

        state = Resumption(model, path)
        for index, batch in state.rest(numbered(data)):
            ...  # counts go on from state.histograms
            state.count(batch)
            if state.due:
                state.save(histograms, dropped)
        state.save(histograms, dropped)

    Args:
        model: after `insert`.
        path: the file: read if it is there, written by `save`; None: nothing is kept.
        every: how many batches lie between two saves.
        share: number of the share of the batches that is counted here, and how many there are.
            Of several, each has a file of its own: `path` with `.0-of-2` behind it.

    Attributes:
        histograms: counted by an earlier run, by site; empty at a first start.
        dropped: sites it left without one.
        batches: how many are counted, by this run and earlier ones.
        samples: how many rows they held.

    Raises:
        InputError: the file is none of ours, or holds counts of another model or share; or
            `every` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        path: Path | None = None,
        *,
        every: int = 16,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if every < 1:
            raise InputError(f"save_every={every} never saves", fix="pass 1 or more batches")
        if path is not None and share[1] > 1:
            path = path.with_name("{}.{}-of-{}".format(path.name, *share))
        self._model, self._path, self._every, self._share = model, path, every, share
        self._last = ""
        self._newest: object = None
        self.histograms: Histograms = {}
        self.dropped: tuple[str, ...] = ()
        self.batches = self.samples = 0
        if self._path is not None and self._path.exists():
            self._take_up(self._path)

    def rest(self, batches: Iterator[tuple[int, object]]) -> Iterator[tuple[int, object]]:
        """The batches that are not counted yet.

        Args:
            batches: (number, batch), all of this share, in the order of the first time.

        Raises:
            InputError: there are fewer than were counted, or the last one counted is another now.
        """
        done, position = self.batches, 0
        for position, (index, batch) in enumerate(batches, start=1):
            if position > done:
                yield index, batch
            elif position == done and digest_of(batch) != self._last:
                raise self._other_data(f"batch {index} is not what it was when it was counted")
        if position < done:
            raise self._other_data(f"there are {position} batches, and {done} were counted")

    def count(self, batch: object) -> None:
        """Note one more batch, in the form the data gave it."""
        self.batches += 1
        self.samples += rows_of(batch)
        self._newest = batch

    @property
    def due(self) -> bool:
        """Whether enough was counted since the last save."""
        return self._path is not None and self.batches % self._every == 0

    def save(self, histograms: Histograms, dropped: Collection[str] = ()) -> None:
        """Write what was counted, by this run and earlier ones, whole or not at all.

        Args:
            histograms: by site.
            dropped: sites left without one, because what they see is not finite.

        Raises:
            InputError: the file cannot be written.
        """
        if self._path is None:
            return
        if self._newest is not None:
            self._last = digest_of(self._newest)
        save_histograms(histograms, self._path, self.origin(dropped))

    def origin(self, dropped: Collection[str] = ()) -> Origin:
        """Of everything counted so far; `dropped` as for `save`."""
        return replace(
            self._start,
            batches=self.batches,
            samples=self.samples,
            last=self._last,
            dropped=tuple(sorted(dropped)),
        )

    @cached_property
    def _start(self) -> Origin:
        """Worked out where it is needed: it reads all the weights."""
        return origin_of(self._model, share=self._share)

    def _take_up(self, path: Path) -> None:
        histograms, origin = load_histograms(path)
        unlike = difference(origin, self._start)
        if not unlike and origin.share != self._share:
            unlike = f"it holds {_spoken(origin.share)}, and here is {_spoken(self._share)}"
        if unlike:
            raise InputError(
                f"the calibration cannot go on from this file: {unlike}",
                at=str(path),
                fix="resume with the model, weights and number of processes that it was saved "
                "with; or delete the file to count anew",
            )
        self.histograms, self.dropped, self._last = histograms, origin.dropped, origin.last
        self.batches, self.samples = origin.batches, origin.samples

    def _other_data(self, what: str) -> InputError:
        return InputError(
            what,
            at=str(self._path),
            fix="give the same batches in the same order, without shuffling or random changes; or "
            "delete the file to count anew",
        )


def _spoken(share: tuple[int, int] | None) -> str:
    return "merged counts" if share is None else f"share {share[0]} of {share[1]}"
