"""Silence of TensorFlow Datasets about itself."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silence log lines below ERROR, warnings and progress bars of TFDS in a block.

    They advise to install OpenCV, announce downloads that do not happen, or draw bars
    into log files. Errors are raised as ever. TFDS is imported on entry.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_datasets.core.utils import tqdm_utils

        logger = logging.getLogger(
            "absl"
        )  # after the import: absl makes this logger, of its own class
        level = logger.level
        bars = tqdm_utils._active
        logger.setLevel(logging.ERROR)
        tqdm_utils.display_progress_bar(False)
        try:
            yield
        finally:
            tqdm_utils.display_progress_bar(bars)
            logger.setLevel(level)
