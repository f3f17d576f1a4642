"""The devices ggml found: the CPU and, in a build that has them, GPUs."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from redoma_model.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class Device:
    """A device that can compute.

    Attributes:
        handle: ggml's own.
        free_bytes: Memory that is free; 0 where ggml doesn't tell.
    """

    handle: int
    name: str
    description: str
    free_bytes: int
    total_bytes: int


def list_devices(ggml: ctypes.CDLL) -> list[Device]:
    """Lists the devices in ggml's order."""
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for function in (ggml.ggml_backend_dev_name, ggml.ggml_backend_dev_description):
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_char_p
    size = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    ggml.ggml_backend_dev_memory.restype = None
    devices: list[Device] = []
    for index in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        name = ggml.ggml_backend_dev_name(handle).decode(errors="replace")
        description = ggml.ggml_backend_dev_description(handle).decode(errors="replace")
        devices.append(Device(handle, name, description, free.value, total.value))
    return devices


def select_devices(found: Sequence[Device], names: Sequence[str]) -> "ctypes.Array[ctypes.c_void_p]":
    """Gives the NULL-terminated array of the named devices' handles.

    Raises:
        ModelFileError: There is no device of a name.
    """
    by_name = {device.name: device for device in found}
    for name in names:
        if name not in by_name:
            raise ModelFileError(f"There is no device {name!r}; llama.cpp found {', '.join(by_name) or 'none'}.")
    return (ctypes.c_void_p * (len(names) + 1))(*(by_name[name].handle for name in names), None)
