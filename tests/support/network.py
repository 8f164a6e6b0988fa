# SPDX-License-Identifier: Apache-2.0
"""Network namespaces and links. The caller chooses names; nothing here touches namespaces it was not told
of."""

import contextlib
import ctypes
import json
import os
import socket
import struct

from support import kernel
from support.system import run, sh, wait_for

CLONE_NEWNET = 0x40000000
NLMSG_ERROR, RTM_NEWRULE, RTM_DELRULE, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 2, 32, 33, 0x1, 0x4, 0x400
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_FWMASK, FRA_OIFNAME, FRA_UID_RANGE = (
    1,
    2,
    3,
    6,
    10,
    16,
    17,
    20,
)
BEHIND = 32767  # priority of the last rule that each namespace has
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(netns):
    """The calling thread is in this network namespace (a name of `ip netns`) for the time of the block: sockets that are made
    there belong there."""
    with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{netns}") as other:
        if _libc.setns(other.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
        try:
            yield
        finally:
            if _libc.setns(own.fileno(), CLONE_NEWNET):
                os._exit(99)  # this process would go on in a pod


def create(name):
    run(["ip", "netns", "add", name])
    # No wait for duplicate address detection: there are no duplicates here.
    sysctl(
        name,
        {
            "net.ipv6.conf.all.accept_dad": 0,
            "net.ipv6.conf.default.accept_dad": 0,
            "net.ipv6.conf.all.disable_ipv6": 0,
            "net.ipv6.conf.default.disable_ipv6": 0,
        },
    )
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def delete(name):
    run(["ip", "netns", "del", name], check=False)


def is_mounted():
    """Whether anybody has made a namespace since the boot: the first time, ip mounts /run/netns on itself."""
    # Not os.path.ismount: where /run is a directory of the root file system, both have one device.
    return "/run/netns" in kernel.mounts()


def unmount():
    """Undoes that. Does nothing if there are namespaces."""
    if run(["umount", "/run/netns"], check=False).returncode == 0:
        with contextlib.suppress(OSError):
            os.rmdir("/run/netns")


def exists(name):
    return os.path.exists(f"/run/netns/{name}")


def names(prefix=""):
    try:
        return sorted(n for n in os.listdir("/run/netns") if n.startswith(prefix))
    except FileNotFoundError:
        return []


def sysctl(netns, values):
    """Sets sysctls of the namespace. Those that this kernel has not are left out: IPv6 may be off."""
    script = "".join(
        f"[ ! -e /proc/sys/{key.replace('.', '/')} ] || "
        f"echo '{value}' >/proc/sys/{key.replace('.', '/')} || exit 1\n"
        for key, value in values.items()
    )
    run(["sh", "-c", script], netns=netns)


def veth(netns_a, name_a, netns_b, name_b):
    run(
        ["ip", "-n", netns_a, "link", "add", name_a, "type", "veth", "peer", "name", name_b, "netns", netns_b]
    )
    run(["ip", "-n", netns_a, "link", "set", name_a, "up"])
    run(["ip", "-n", netns_b, "link", "set", name_b, "up"])


def address(netns, link, value):
    options = ["nodad"] if ":" in value else []
    run(["ip", "-n", netns, "addr", "add", value, "dev", link, *options])


def wait_addresses(netns, link, *addresses):
    """Until they are in use. The kernel has a worker that adds the route by which a new IPv6 address is known as the machine's
    own, whether or not it is looked for duplicates, and that may be late."""

    def there():
        routes = run(["ip", "-n", netns, "-6", "route", "show", "table", "local", "dev", link]).stdout
        return all(f"local {a} " in routes for a in addresses)

    wait_for(there, f"the addresses of {link} in {netns} to be in use")


def route(netns, destination, via):
    run(["ip", "-n", netns, *(["-6"] if ":" in via else []), "route", "add", destination, "via", via])


def add_rules(netns, count):
    """That many rules of IPv4 behind all others, which match nothing. Not by `ip rule`, with which the kernel goes through all
    there are for each that comes, and nobody else on the machine can change a network meanwhile."""
    # Each comes before those there are, and nobody asks whether there is its like.
    _change_rules(netns, RTM_NEWRULE, NLM_F_CREATE, range(BEHIND + count, BEHIND, -1))


def delete_rules(netns, count):
    """Those of add_rules()."""
    _change_rules(netns, RTM_DELRULE, 0, range(BEHIND + 1, BEHIND + count + 1))


def _change_rules(netns, kind, flags, priorities, chunk=500):
    # As long as they can be.
    header = struct.pack("=8BI", socket.AF_INET, 32, 32, 0, 254, 0, 0, 1, 0)
    for attribute in (FRA_DST, FRA_SRC, FRA_FWMARK, FRA_FWMASK):
        header += struct.pack("=HHI", 8, attribute, 0x01020304)
    for attribute in (FRA_IIFNAME, FRA_OIFNAME):
        header += struct.pack("=HH16s", 20, attribute, b"no-such-devices")
    header += struct.pack("=HHII", 12, FRA_UID_RANGE, 7, 7)
    with inside(netns):
        s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with s:
        s.settimeout(60)
        for start in range(0, len(priorities), chunk):
            part, data = priorities[start : start + chunk], b""
            for p in part:
                rule = header + struct.pack("=HHI", 8, FRA_PRIORITY, p)
                ack = NLM_F_ACK if p == part[-1] else 0
                data += struct.pack("=IHHII", 16 + len(rule), kind, NLM_F_REQUEST | flags | ack, p, 0) + rule
            s.send(data)
            # That of the last, unless one of the others has failed.
            answer = s.recv(8192)
            _, what, _, priority, _, error = struct.unpack_from("=IHHIIi", answer)
            if what != NLMSG_ERROR or error:
                raise OSError(-error, f"rule {priority} in {netns}: {os.strerror(-error)}")


def rules_and_routes(netns):
    """Text of all rules and routes, for comparing before and after. Not those of link-local addresses: they
    come by themselves, a while after their device."""
    out = []
    for family in ("-4", "-6"):
        out.append(run(["ip", "-n", netns, family, "rule", "show"]).stdout)
        routes = run(["ip", "-n", netns, family, "route", "show", "table", "all"], check=False).stdout
        out += [line for line in routes.splitlines(keepends=True) if "fe80" not in line]
    return "".join(out)


def wait_carries(netns, name):
    """Until a device whose other end came up after it has noticed, and its bridge too. The kernel does that in the background,
    when nobody changes networks anywhere, and loses what is sent before: three questions for a neighbour are EHOSTUNREACH."""

    def carries():
        (link,) = json.loads(sh("ip", "-n", netns, "-j", "link", "show", "dev", name))
        ports = json.loads(sh("bridge", "-n", netns, "-j", "link", "show", "dev", name) or "[]")
        return link["operstate"] == "UP" and all(port["state"] == "forwarding" for port in ports)

    wait_for(carries, f"{name} in {netns} to carry packets")
