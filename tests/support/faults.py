# SPDX-License-Identifier: Apache-2.0
"""Makes system calls of a program wait or fail, by the library of faults.c that is preloaded into it."""

import mmap
import os
import struct

CALLS = [
    "none",
    "fcntl dup",
    "epoll add",
    "epoll modify",
    "setns",
    "socket",
    "accept",
    "open",
    "opendir",
    "bpf",
    "listen",
    "bind",
    "setsockopt",
    "dup",
    "pidfd",
    "epoll wait",
    "epoll wait of a worker",
    "epoll wait of flows",
    "sendmsg of a worker",
    "tcx",
    "inotify",
]
HEAD = struct.Struct("IiII")
ALL = 0xFFFFFFFF


def library(build):
    return f"{build}/tests/e2e/libfaults.so"


def waits_env(build, path, milliseconds):
    """Settings for a program whose event loops shall wait wherever they can; path gets a line for each
    time."""
    return {"LD_PRELOAD": library(build), "FAULTS_WAITS": path, "FAULTS_WAIT": milliseconds}


class Faults:
    """Of one program: env is for its environment."""

    def __init__(self, build, path):
        size = HEAD.size + 8 * (len(CALLS) + 1)
        with open(path, "wb") as f:
            f.write(bytes(size))
        self.file = os.open(path, os.O_RDWR)
        self.memory = mmap.mmap(self.file, size)
        self.env = {"LD_PRELOAD": library(build), "FAULTS_CONTROL": path}

    def fail(self, call, error, skip=0, times=ALL):
        """From now on: after skip calls that succeed, times of them fail by this errno. A negative number: the program
        gets that signal before the call is made."""
        self.stop()
        self.memory[HEAD.size + 8 * len(CALLS) :] = bytes(8)
        self.memory[: HEAD.size] = HEAD.pack(0, error, skip, times)
        self.memory[:4] = struct.pack("I", CALLS.index(call))

    def stop(self):
        self.memory[:4] = bytes(4)

    def failed(self):
        return struct.unpack("Q", self.memory[HEAD.size + 8 * len(CALLS) :])[0]

    def seen(self, call):
        at = HEAD.size + 8 * CALLS.index(call)
        return struct.unpack("Q", self.memory[at : at + 8])[0]

    def close(self):
        self.memory.close()
        os.close(self.file)
