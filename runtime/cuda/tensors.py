"""Tensors in a GPU's memory, with the operations that all GPU backends share."""

from __future__ import annotations

import atexit
import functools
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import BackendError
from ...grid.tensors import DType
from .device import ALIGNMENT_BYTES, Device

_NAN_BYTE = 0xFF  # NaN in floats of any width, if set in every byte


class Memory:
    """A block of device memory; freed once no tensor references it."""

    def __init__(self, address: int) -> None:
        self.address = address


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """A contiguous tensor at ``address``, inside the block ``memory``."""

    address: int
    shape: tuple[int, ...]
    dtype: DType
    memory: Memory

    @property
    def num_bytes(self) -> int:
        """Its size in bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def overlaps(self, other: DeviceTensor) -> bool:
        """Return whether the two share a byte."""
        return self.address < other.address + other.num_bytes and other.address < self.address + self.num_bytes


class DeviceTensors:
    """Part of a backend: its tensors on one GPU, moved on the device's stream.

    The thread that creates it owns it. Host arrays pass through page-locked memory: one block for inputs, which is
    reused as soon as the previous copy is done, and one block for outputs.
    """

    name = "device"

    def __init__(self, device: Device) -> None:
        self.device = device
        self.thread = threading.get_ident()
        self.is_open = True
        self._given_back: deque[int] = deque()  # by any thread that collects garbage; freed by the owner
        self._staged = device.event()
        self._in, self._out = device.pin(ALIGNMENT_BYTES), device.pin(ALIGNMENT_BYTES)
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def require_usable(self) -> None:
        """Check that the device is open and this thread owns it.

        Raises:
            BackendError: If not.
        """
        if not self.is_open:
            raise BackendError(f"backend {self.name!r} is closed: open another one")
        if threading.get_ident() != self.thread:
            raise BackendError(
                f"backend {self.name!r} belongs to thread {self.thread}, but this is thread {threading.get_ident()}: "
                "one thread owns a GPU, open another backend in this one"
            )

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> DeviceTensor:
        """Return a new tensor of zeros.

        Raises:
            ResourceError: If the GPU has no free memory.
        """
        self.require_usable()
        if self._given_back:
            self.device.synchronize()
            while self._given_back:
                self.device.free(self._given_back.popleft())
        num_bytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        memory = Memory(self.device.allocate(num_bytes))
        weakref.finalize(memory, self._given_back.append, memory.address).atexit = False
        self.device.fill(memory.address, 0, num_bytes)
        return DeviceTensor(memory.address, tuple(shape), dtype, memory)

    def frames(self, value: DeviceTensor, start: int, stop: int) -> DeviceTensor:
        """Return frames ``[start, stop)`` of a tensor [1, frames, ...], without a copy.

        Raises:
            BackendError: If it holds several videos, whose frames are not contiguous.
        """
        batch, count, *rest = value.shape
        if batch != 1 or not 0 <= start < stop <= count:
            raise BackendError(
                f"frames {start} to {stop} of a tensor {list(value.shape)}: expected frames that it has, of one video"
            )
        offset = start * int(np.prod(rest)) * np.dtype(value.dtype).itemsize
        return DeviceTensor(value.address + offset, (1, stop - start, *rest), value.dtype, value.memory)

    def write(self, value: DeviceTensor, array: NDArray[Any]) -> None:
        """Copy a host array of the same shape into a tensor, converting to its dtype.

        The array may be changed as soon as this returns; the tensor is filled before the next call reads it.

        Raises:
            BackendError: If the shapes differ.
        """
        self.require_usable()
        if array.shape != value.shape:
            raise BackendError(f"array {list(array.shape)} does not fit a tensor {list(value.shape)}")
        self.device.wait(self._staged)
        self._in = self._grown(self._in, value.num_bytes)
        staged = self._in[: value.num_bytes]
        with np.errstate(over="ignore"):  # out of fp16 range becomes infinity, which never names a class
            np.copyto(staged.view(value.dtype).reshape(value.shape), array, casting="same_kind")
        self.device.copy_in(value.address, staged)
        self.device.record(self._staged)

    def read(self, value: DeviceTensor) -> NDArray[Any]:
        """Return a tensor's contents on the host."""
        return self.fetch([value])[0]

    def fetch(self, values: Sequence[DeviceTensor]) -> list[NDArray[Any]]:
        """Return the contents of several tensors on the host, waiting for the GPU once."""
        self.require_usable()
        places, end = [], 0
        for value in values:
            places.append(slice(end, end + value.num_bytes))
            end += -(-value.num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._out = self._grown(self._out, end)
        for value, place in zip(values, places, strict=True):
            self.device.copy_out(self._out[place], value.address)
        self.device.synchronize()
        return [
            self._out[place].view(value.dtype).reshape(value.shape).copy()
            for value, place in zip(values, places, strict=True)
        ]

    def row(self, value: DeviceTensor, index: int) -> None:
        """Return None: a prepared call holds a CUDA graph, or addresses that TensorRT sets again for each call."""

    def rows(self, value: DeviceTensor, count: int) -> DeviceTensor:
        """Return the first ``count`` rows of a tensor [batch, ...], without a copy.

        Raises:
            BackendError: If it has fewer rows.
        """
        if not 0 < count <= value.shape[0]:
            raise BackendError(f"{count} rows of a tensor {list(value.shape)}: expected rows that it has")
        return DeviceTensor(value.address, (count, *value.shape[1:]), value.dtype, value.memory)

    def take(self, value: DeviceTensor, rows: Sequence[int], out: DeviceTensor) -> None:
        """Copy rows of ``value`` to the first rows of ``out``, on the device.

        Raises:
            BackendError: If the tensors do not match, or share memory.
        """
        row_bytes = self._row_bytes(value, rows, out)
        for place, row in enumerate(rows):
            self.device.copy(out.address + place * row_bytes, value.address + row * row_bytes, row_bytes)

    def put(self, value: DeviceTensor, store: DeviceTensor, rows: Sequence[int]) -> None:
        """Copy the first rows of ``value`` to ``rows`` of ``store``, on the device.

        Raises:
            BackendError: As ``take``.
        """
        row_bytes = self._row_bytes(store, rows, value)
        for place, row in enumerate(rows):
            self.device.copy(store.address + row * row_bytes, value.address + place * row_bytes, row_bytes)

    def poison(self, store: DeviceTensor, row: int) -> None:
        """Fill one row of a tensor with NaN."""
        row_bytes = self._row_bytes(store, [row], None)
        self.device.fill(store.address + row * row_bytes, _NAN_BYTE, row_bytes)

    def close(self) -> None:
        """Release everything; runs at exit if nobody called it. Any later use is an error."""
        if self.is_open:
            self.is_open = False
            atexit.unregister(self._at_exit)
            self.device.close()

    def _row_bytes(self, value: DeviceTensor, rows: Sequence[int], packed: DeviceTensor | None) -> int:
        """Return the size of a row; check that ``value`` has ``rows`` and that rows of ``packed`` match them."""
        self.require_usable()
        fits = all(0 <= row < value.shape[0] for row in rows)
        if packed is not None:
            fits = fits and value.shape[1:] == packed.shape[1:] and value.dtype == packed.dtype
            fits = fits and len(rows) <= packed.shape[0] and not value.overlaps(packed)
        if not fits:
            other = "" if packed is None else f" do not fit another one {packed.dtype} {list(packed.shape)}"
            raise BackendError(
                f"rows {list(rows)} of a tensor {value.dtype} {list(value.shape)}{other}: expected rows that it has, "
                "and separate memory"
            )
        return value.num_bytes // value.shape[0]

    def _grown(self, pinned: NDArray[np.uint8], num_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked memory of at least that size: ``pinned`` itself if it is large enough."""
        if pinned.nbytes >= num_bytes:
            return pinned
        larger = self.device.pin(num_bytes)
        self.device.unpin(pinned)
        return larger


def _close(reference: weakref.ref[DeviceTensors]) -> None:
    tensors = reference()
    if tensors is not None and tensors.thread == threading.get_ident():
        tensors.close()
