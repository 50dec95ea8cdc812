"""Memory that a pass frees stays with the process for the next, instead of coming back from the system page by page."""

import ctypes
import sys
from functools import cache

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest that glibc takes: what is larger it maps and unmaps each time.
_HELD_BLOCK = 32 << 20
_HELD = 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Let glibc hold up to a gigabyte of what was freed, in blocks of up to 32 MiB; whether this is glibc.

    The logits of 96 rows alone are 12 MB a pass, which the system would zero again each time.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # Another library than glibc.
        return False
    return all([set_option(_MMAP_THRESHOLD, _HELD_BLOCK), set_option(_TRIM_THRESHOLD, _HELD)])
