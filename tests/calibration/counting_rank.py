"""One of four processes: `python counting_rank.py RANK FOLDER`, with gloo and files to meet in.

In worlds of 1 to 4 processes it counts its share of five batches and writes what all counted to
`FOLDER/<ranks>-<rank>`; then what goes wrong in a world of 2, as text, to `FOLDER/<case>-<rank>`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from counting import batches, counted, net

from qdq.calibration.distribution import (
    failing_together,
    merged_over_ranks,
    own_share,
    rank_and_ranks,
)
from qdq.calibration.files import save_histograms
from qdq.calibration.origins import origin_of
from qdq.errors import QdqError

BATCHES = 5


@contextmanager
def world(name: str, rank: int, ranks: int, folder: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / name}.meeting",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=200),
    )
    yield
    dist.barrier()  # gloo complains of a process that leaves while another still receives
    dist.destroy_process_group()


def count_together(path: Path, total: int = BATCHES) -> None:
    share = rank_and_ranks()
    model = net()
    own = [batch for _, batch in own_share(enumerate(batches(total)), share)]
    origin = origin_of(model, share=share)
    origin = replace(origin, batches=len(own), samples=sum(map(len, own)))
    histograms, origin = merged_over_ranks(counted(model, own), origin)
    save_histograms(histograms, path, origin)


def main(rank: int, folder: Path) -> None:
    for ranks in (1, 2, 3, 4):
        if rank < ranks:
            with world(str(ranks), rank, ranks, folder):
                count_together(folder / f"{ranks}-{rank}")
    with world("idle", rank, 4, folder):
        count_together(folder / f"idle-{rank}", total=2)
    if rank < 2:
        with world("models", rank, 2, folder):
            try:
                merged_over_ranks({}, origin_of(net(seed=rank)))
            except QdqError as error:
                (folder / f"models-{rank}").write_text(str(error))
        with world("failing", rank, 2, folder):
            try:
                with failing_together():
                    if rank == 1:
                        raise ValueError("disk gone")
                merged_over_ranks({}, origin_of(net()))
            except (QdqError, ValueError) as error:
                (folder / f"failing-{rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
