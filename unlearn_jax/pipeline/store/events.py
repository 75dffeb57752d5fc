"""TensorBoard events of runs; needs tensorboardX."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.types import InputError


class Events:
    """Losses, stage times and the table of a run as TensorBoard scalars.

    Args:
      folder: folder to write to; ``~`` is the home folder.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard events need tensorboardX: pip install"
                " 'unlearn-jax[tensorboard]'"
            ) from error
        self._writer: Any = SummaryWriter(os.path.expanduser(folder))
        self._num_stages = 0

    def _write(self, tag: str, number: float, step: int) -> None:
        # TensorBoard's tags are letters, digits, dots, dashes and slashes
        tag = re.sub(r"[^\w./-]+", "_", tag).rstrip("_")
        self._writer.add_scalar(tag, number, step)

    def losses(self, name: str, first_epoch: int, losses: np.ndarray) -> None:
        """Write the losses of models that train together.

        Args:
          name: name of the models.
          first_epoch: number of the first epoch of the losses, from 1.
          losses: ``[M, epochs]`` losses, of which the mean over the models is written.
            Arrays with another number of axes are ignored.
        """
        if np.ndim(losses) != 2:
            return
        for position, loss in enumerate(np.asarray(losses).mean(0)):
            self._write(f"loss/{name}", loss, first_epoch + position)
        self._writer.flush()

    def stage(self, cost: Cost) -> None:
        """Write the times of a stage under its name, in seconds."""
        self._num_stages += 1
        for kind in ("seconds", "compile_seconds"):
            value = getattr(cost, kind)
            self._write(f"{kind}/{cost.name}", value, self._num_stages)
        self._writer.flush()

    def numbers(self, numbers: Mapping[str, float]) -> None:
        """Write single numbers by name, such as those of the table."""
        for name, number in numbers.items():
            self._write(name, number, 0)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
