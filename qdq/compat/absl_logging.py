"""What scripts of old use of `absl.logging`, over the logger "pytorch_quantization".

pytorch_quantization brought absl along, so its users write `from absl import logging` and
`logging.set_verbosity(logging.ERROR)`. Where absl is not installed, `install` puts this module
under that name; it silences the messages that those users want silenced.
"""

import logging

from qdq.compat.pytorch_quantization.utils.quant_logging import logger

FATAL, ERROR, WARNING, INFO, DEBUG = -3, -2, -1, 0, 1
WARN = WARNING
_LEVELS = {
    FATAL: logging.CRITICAL,
    ERROR: logging.ERROR,
    WARNING: logging.WARNING,
    INFO: logging.INFO,
    DEBUG: logging.DEBUG,
}

debug = logger.debug
info = logger.info
warning = warn = logger.warning
error = logger.error
exception = logger.exception


def log(level: int, message: str, *args: object) -> None:
    """Log at one of the levels above."""
    logger.log(_stdlib(level), message, *args)


def set_verbosity(level: int | str) -> None:
    """Show messages of this level and of more severe ones.

    Args:
        level: one of the levels above, or its name.
    """
    logger.setLevel(level.upper() if isinstance(level, str) else _stdlib(level))


def get_verbosity() -> int:
    """The least severe of the levels above that is shown."""
    effective = logger.getEffectiveLevel()
    return max((each for each in _LEVELS if _LEVELS[each] >= effective), default=FATAL)


def _stdlib(level: int) -> int:
    return _LEVELS[min(max(level, FATAL), DEBUG)]
