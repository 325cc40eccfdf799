"""Large pages for long messages: for the system to give fresh memory in small ones takes longer than to hash it.

It is asked as numpy asks for its arrays. Where it has none, or is not Linux, memory comes in small pages, as ever.
"""

import ctypes
import mmap

__all__ = ["in_large_pages"]

_WORTH_BYTES = 4 << 20
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)


def in_large_pages(memory: memoryview) -> None:
    """Asks that the pages of `memory` that were not touched yet be large ones; it is long, or nothing is asked."""
    if _ADVICE is None or len(memory) < _WORTH_BYTES:
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + len(memory) - first) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _ADVICE)  # advice: it may be declined
