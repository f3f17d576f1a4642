"""Memory that numpy and llama.cpp share: a step's batch is numpy's, so that it is filled with a few slice assignments
and no call per token; results are llama.cpp's."""

import ctypes
from ctypes import c_float, c_int8, c_int32, cast

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.step_batch import StepBatch


def floats(address: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Gives the array at an address, which stays llama.cpp's."""
    flat: NDArray[np.float32] = np.ctypeslib.as_array((c_float * (rows * columns)).from_address(address))
    return flat.reshape(rows, columns)


def batch_struct(batch: StepBatch) -> lib.llama_batch:
    """Gives the llama_batch over the memory of `batch`, which must outlive it."""
    int32 = ctypes.POINTER(c_int32)
    return lib.llama_batch(
        0,
        cast(batch.tokens.ctypes.data, int32),
        None,
        cast(batch.positions.ctypes.data, int32),
        cast(batch.counts.ctypes.data, int32),
        cast(batch.slot_addresses.ctypes.data, ctypes.POINTER(int32)),
        cast(batch.outputs.ctypes.data, ctypes.POINTER(c_int8)),
    )
