"""Memory of large arrays that is kept and used again, where the C library can be told so."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
_LARGEST = 2**31 - 1


def keep_memory() -> bool:
    """Tells glibc to keep what large arrays gave back; whether there is a glibc to tell.

    By default it maps every large array anew, and the system fills each page with zeros at its first touch: an array
    of 64 MB costs as much again as the matrix product that writes it. The memory stays with the process until its end.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_TOP_PAD, 1 << 26)
    )
