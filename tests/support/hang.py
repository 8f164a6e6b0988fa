# SPDX-License-Identifier: Apache-2.0
"""One thread of a process that stands still, as one that hangs does, while the others go on."""

import contextlib
import ctypes
import os

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000  # __WALL
libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request, tid):
    if libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), None, None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace of {tid}: {os.strerror(error)}")


def threads(pid):
    """{name: [thread id]}"""
    found = {}
    for tid in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        with open(f"/proc/{pid}/task/{tid}/comm") as f:
            found.setdefault(f.read().strip(), []).append(int(tid))
    return found


@contextlib.contextmanager
def hung(tid):
    """To be left by the thread that has entered it: the kernel takes orders from no other."""
    _ptrace(PTRACE_SEIZE, tid)
    try:
        _ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WALL)
        yield
    finally:
        # Of a process that was killed meanwhile there is nothing to let go.
        with contextlib.suppress(OSError):
            _ptrace(PTRACE_DETACH, tid)
