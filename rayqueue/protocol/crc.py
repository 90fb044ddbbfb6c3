"""CRC32C of large pieces of memory, outside the interpreter's lock.

google_crc32c keeps the lock while it computes: 20 us for a batch of 300 KB, in which no other thread runs. The function
that it calls is in the C library it is linked to, and can be called without the lock. Where there is no such library
(google_crc32c in pure Python) the lock is kept: `RELEASES` tells.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable

import google_crc32c
import pyarrow as pa

# Below this, a call through ctypes and giving the lock away cost more than they bring.
_LARGE_BYTES = 64 * 1024

_Extend = Callable[[int, int, int], int]


def _library() -> _Extend | None:
    """`crc32c_extend(crc, data, count)` of the library that google_crc32c's extension module is linked to."""
    spec = importlib.util.find_spec("google_crc32c._crc32c")
    if spec is None or spec.origin is None:
        return None
    try:
        function = ctypes.CDLL(spec.origin).crc32c_extend
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
    function.restype = ctypes.c_uint32
    known = b"123456789"
    return function if function(0, known, len(known)) == google_crc32c.value(known) else None


_extend = _library()
RELEASES = _extend is not None


def crc_of(data: pa.Buffer | bytes) -> int:
    """The CRC32C of these bytes."""
    if _extend is not None and isinstance(data, pa.Buffer) and data.size >= _LARGE_BYTES:
        return _extend(0, data.address, data.size)
    return int(google_crc32c.value(data))
