"""Read-only views of files that unmap themselves with the last slice, or array, made from them.

Not by the `mmap` module: it keeps a descriptor open for each mapping, and a program that holds more
arrays than it may have descriptors would fail. A lock on the open file lives as long as the mapping
does, also after the descriptor is closed. Nothing here knows what is in the files.
"""

import functools
import mmap
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctypes

SIZES_MAX = 1024
"""Sizes of mappings whose types are remembered. Segments come in few sizes."""


def map_shared(file: int, nbytes: int) -> memoryview:
    """The first bytes of an open file, where they lie; `OSError` if they cannot be mapped."""
    libc, failed = _libc()
    address = libc.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    if address is None or address == failed:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (mapping {nbytes:,} bytes)")
    return memoryview(_mapping_type(nbytes).from_address(address)).cast("B").toreadonly()


@functools.cache
def _libc() -> tuple[Any, int | None]:
    """The C library, and the address that its `mmap` fails with; ctypes is imported when needed."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_ssize_t)
    libc.mmap.restype = pointer
    libc.munmap.argtypes = (pointer, size)
    return libc, ctypes.c_void_p(-1).value


@functools.lru_cache(maxsize=SIZES_MAX)
def _mapping_type(nbytes: int) -> "type[ctypes.Array[ctypes.c_ubyte]]":
    """Memory of that size that unmaps itself."""
    import ctypes

    # all it needs is held here: at the interpreter's end the modules are empty already
    unmap, address_of = _libc()[0].munmap, ctypes.addressof

    class Mapping(ctypes.c_ubyte * nbytes):  # type: ignore[misc]
        def __del__(self) -> None:
            unmap(address_of(self), nbytes)

    return Mapping
