# SPDX-License-Identifier: Apache-2.0
"""Pinned maps of the kernel, read by bpftool and filled by the kernel's own call."""

import contextlib
import ctypes
import errno
import json
import os
import platform
import struct

from support.system import sh

BPF_OBJ_GET, BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH = 7, 26, 27
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)


def dump(node, name):
    """[(key, value)] of the node's map, as bpftool understands its types."""
    entries = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{node.pin_dir}/maps/{name}"))
    return [(e["formatted"]["key"], e["formatted"]["value"]) for e in entries]


def _bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"))
    result = libc.syscall(SYS_BPF, command, buffer, 128)
    return (result, ctypes.get_errno() if result < 0 else 0)


def _batch(command, fd, keys, values, count):
    """0, or the errno of the first that failed."""
    key_buffer = ctypes.create_string_buffer(keys, len(keys))
    value_buffer = ctypes.create_string_buffer(values, len(values))
    attributes = struct.pack(
        "=QQQQIIQQ", 0, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), count, fd, 0, 0
    )
    return _bpf(command, attributes)[1]


@contextlib.contextmanager
def full(node, name, key, chunk=4096):
    """The map has no room for anybody while the block runs. key: a function that makes the key of the entry
    with this number."""
    pin = f"{node.pin_dir}/maps/{name}"
    value = b"\1".ljust(json.loads(sh("bpftool", "-j", "map", "show", "pinned", pin))["bytes_value"], b"\0")
    path = ctypes.create_string_buffer(pin.encode())
    fd, error = _bpf(BPF_OBJ_GET, struct.pack("=QI", ctypes.addressof(path), 0))
    if fd < 0:
        raise OSError(error, os.strerror(error))
    chunks, error = 0, 0
    try:
        while not error:
            keys = b"".join(key(chunks * chunk + i) for i in range(chunk))
            error = _batch(BPF_MAP_UPDATE_BATCH, fd, keys, value * chunk, chunk)
            chunks += 1
        assert error == errno.E2BIG, os.strerror(error)
        yield
    finally:
        for n in range(chunks):
            # One by one where the last chunk was taken in part: the call ends at the first that is not there.
            keys = [key(n * chunk + i) for i in range(chunk)]
            if _batch(BPF_MAP_DELETE_BATCH, fd, b"".join(keys), b"\0", chunk):
                for k in keys:
                    _batch(BPF_MAP_DELETE_BATCH, fd, k, b"\0", 1)
        os.close(fd)
