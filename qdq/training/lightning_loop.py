"""Lightning runs the loop: one device, nothing on disk, nothing said, signals given back."""

import importlib
import logging
import random
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdq.data.batches import Batch
from qdq.errors import StepError
from qdq.training.judging import on_device
from qdq.training.lessons import Lessons

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
# What Lightning and torch warn of in a loop like ours, and why it does not matter here.
_EXPECTED = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen BatchNorms
    r".*LeafSpec.*",  # Lightning asks torch for a name that torch has renamed
    r"[GT]PU available but not used",  # device= says where to run
)


def require_lightning() -> Any:
    """The `lightning` package; StepError where it is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its imports deprecate is not our user's doing
            return importlib.import_module("lightning")
    except ImportError as error:
        raise StepError(
            f"fine-tuning runs on Lightning, which cannot be imported: {error}",
            fix="pip install 'qdq[train]'",
        ) from error


def run(lessons: Lessons, device: torch.device) -> None:
    """All epochs, on a model that is on `device`.

    Raises:
        StepError: Lightning is absent.
        KeyboardInterrupt: the user's.
    """
    lightning = require_lightning()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qdq-"))
        stack.enter_context(_quiet())
        stack.enter_context(_own_interrupts())
        trainer = lightning.Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            max_epochs=lessons.course.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder,
            plugins=[lightning.fabric.plugins.environments.LightningEnvironment()],
        )
        trainer.fit(_shell(lightning, lessons), _Batches(lessons))


class _Batches:
    """Without a length on purpose: Lightning then reads each epoch to its end."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons

    def __iter__(self) -> Iterator[Batch]:
        return self._lessons.batches()


def _shell(lightning: Any, lessons: Lessons) -> Any:
    """A LightningModule that hands everything on."""

    class Shell(lightning.LightningModule):  # type: ignore[misc]  # known only when it is called
        def __init__(self) -> None:
            super().__init__()
            self.model = lessons.model

        def configure_optimizers(self) -> Any:
            scheduler = {"scheduler": lessons.scheduler, "interval": lessons.tick}
            return {"optimizer": lessons.optimizer, "lr_scheduler": scheduler}

        def transfer_batch_to_device(
            self, batch: Batch, device: torch.device, dataloader_idx: int
        ) -> Batch:
            return on_device(batch, device)

        def on_train_epoch_start(self) -> None:
            lessons.begin_epoch()

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return lessons.step(batch)

        def on_train_epoch_end(self) -> None:
            lessons.end_epoch()

    return Shell()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of Python, numpy and torch from this seed, and then as if never drawn."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    on_cuda = device.type == "cuda"
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    try:
        with torch.random.fork_rng([device] if on_cuda else []):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                cudnn.deterministic, cudnn.benchmark = True, False
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says neither what devices there are nor what else it can do."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ctrl-C stays KeyboardInterrupt: Lightning makes it exit(1) and ignores the next ones."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):
            raise left.__context__ from None
        raise
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
