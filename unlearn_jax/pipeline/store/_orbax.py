"""Orbax's checkpointer for one process; imported when a tree is read or written."""

import asyncio
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts


class _HostArrays(ocp.type_handlers.NumpyHandler):
    """Handler of NumPy arrays, written by any process.

    Orbax's own handler writes arrays in process 0 only, because it assumes that all
    processes share a checkpoint. Here, every process writes its own pieces.
    """

    async def serialize(
        self,
        values: Sequence[np.ndarray],
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> list[Any]:
        """Write all arrays concurrently."""
        del args
        writes = map(self._write, values, infos)
        # wait for all writes, also the failed ones, before the event loop ends
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return []

    async def _write(
        self, value: np.ndarray, info: ocp.type_handlers.ParamInfo
    ) -> None:
        spec = ocp.type_handlers.get_json_tspec_write(
            info,
            use_ocdbt=True,
            global_shape=value.shape,
            local_shape=value.shape,
            dtype=value.dtype,
            process_index=jax.process_index(),
        )
        array = await ts.open(
            ts.Spec(spec), create=True, open=True, context=info.ts_context
        )
        await array.write(value)


def checkpointer() -> ocp.Checkpointer:
    """Return Orbax's checkpointer of pytrees, which waits for no other processes."""
    process = jax.process_index()
    only_here = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process-{process}",
    )
    handlers = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _HostArrays())
    )
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=handlers, multiprocessing_options=only_here
    )
    return ocp.Checkpointer(handler, multiprocessing_options=only_here)
