# SPDX-License-Identifier: Apache-2.0
"""What a proxy holds, and whether it is at rest."""

import contextlib
import glob
import os
import re
import time

from support.system import sh, wait_for


def listening(pod):
    lines = sh("ss", "-N", pod.netns, "-Hltn").splitlines()
    return sorted(
        p for p in (int(line.split()[3].rsplit(":", 1)[1]) for line in lines) if p in (15001, 15006, 15008)
    )


def descriptors(process, of=None):
    """What each descriptor of the process leads to, as /proc shows it; a network namespace is always "net:[INODE]",
    also one that was opened by its name below /run/netns, which /proc shows by that."""
    own, found = os.stat("/proc/self/ns/net"), []
    for fd in glob.glob(f"/proc/{process.pid}/fd/*"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            link, what = os.readlink(fd), os.stat(fd)
            found.append(f"net:[{what.st_ino}]" if what.st_dev == own.st_dev else link)
    return [x for x in found if not of or re.match(of, x)]


def at_rest(node):
    """The calls of the start are over, for certificates too, and connections to the readiness page have
    ended."""

    def quiet():
        certificates = node.config_dump()["certificates"]
        time.sleep(0.2)
        count = len(descriptors(node.proxy))
        time.sleep(1)
        return (
            certificates
            and all(c["state"] == "Available" for c in certificates)
            and len(descriptors(node.proxy)) == count
        )

    wait_for(quiet, "the proxy to be at rest")


def same_descriptors(process, before):
    """No more than before, and as many network namespaces. Connections to the readiness page end a moment
    later."""
    wait_for(lambda: len(descriptors(process)) <= len(before), "no descriptor more than before", 5)
    assert len(descriptors(process, "net:")) == len([x for x in before if x.startswith("net:")])


def not_ready(node):
    status, body = node.http(15021, "/healthz/ready")
    return status == 500 and "workload proxy manager" in body
