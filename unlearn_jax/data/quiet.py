"""Suppression of log lines, warnings and progress bars of TensorFlow Datasets."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Suppress TFDS' log lines below ERROR, warnings and progress bars in a block.

    They recommend installing OpenCV, announce downloads that do not happen, or draw
    progress bars into log files. Errors are raised as usual. TFDS is imported on entry.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_datasets.core.utils import tqdm_utils

        logger = logging.getLogger(
            "absl"
        )  # after the import, because absl creates this logger with a class of its own
        level = logger.level
        bars = tqdm_utils._active
        logger.setLevel(logging.ERROR)
        tqdm_utils.display_progress_bar(False)
        try:
            yield
        finally:
            tqdm_utils.display_progress_bar(bars)
            logger.setLevel(level)
