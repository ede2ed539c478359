"""The logger of the layer, `logging.getLogger("pytorch_quantization")`."""

import logging

logger = logging.getLogger("pytorch_quantization")


def reset_logger_handler() -> None:
    """Take away the handlers of this layer's own logger; the root logger's stay as they are."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
