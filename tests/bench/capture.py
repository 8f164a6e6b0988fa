# SPDX-License-Identifier: Apache-2.0
"""The in-pod capture of the stock CNI agent (iptables, IPv4, DNS capture on), for the relay and for peers.
The rules' order and words are part of the contract between that agent and a node proxy."""

from support.system import run

OWN = "0x539/0xfff"  # mark of the node proxy's own sockets
LOCAL = "0x111/0xfff"  # mark of connections that are delivered to the pod's own loopback
PROBES = "169.254.7.127/32"  # source address of the kubelet's probes
HOOKS = {"ISTIO_OUTPUT": "OUTPUT", "ISTIO_PRERT": "PREROUTING"}

TABLES = {
    "raw": [
        f"ISTIO_OUTPUT -p udp -m mark --mark {OWN} -m udp --dport 53 -j CT --zone 1",
        f"ISTIO_PRERT -p udp -m mark ! --mark {OWN} -m udp --sport 53 -j CT --zone 1",
    ],
    "mangle": [
        f"ISTIO_PRERT -m mark --mark {OWN} -j CONNMARK --set-xmark {LOCAL}",
        f"ISTIO_OUTPUT -m connmark --mark {LOCAL} -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ],
    "nat": [
        f"ISTIO_OUTPUT -d {PROBES} -p tcp -m tcp -j ACCEPT",
        f"ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark {OWN} -m udp --dport 53 -j REDIRECT --to-ports 15053",
        f"ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m tcp --dport 53 -m mark ! --mark {OWN} -j REDIRECT --to-ports 15053",
        f"ISTIO_OUTPUT -p tcp -m mark --mark {LOCAL} -j ACCEPT",
        "ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT",
        f"ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark {OWN} -j REDIRECT --to-ports 15001",
        f"ISTIO_PRERT -s {PROBES} -p tcp -m tcp -j ACCEPT",
        (
            f"ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp -m tcp ! --dport 15008 -m mark ! --mark {OWN} -j REDIRECT "
            "--to-ports 15006"
        ),
    ],
}


def rules():
    """Text for iptables-restore."""
    lines = []
    for table, entries in TABLES.items():
        lines.append(f"*{table}")
        lines += [f":{chain} - [0:0]" for chain in HOOKS]
        lines += [f"-A {hook} -j {chain}" for chain, hook in HOOKS.items()]
        lines += [f"-A {entry}" for entry in entries]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def install(netns):
    run(["iptables-nft-restore"], netns=netns, input=rules())
    run(["ip", "-n", netns, "rule", "add", "fwmark", LOCAL, "pref", "32764", "lookup", "100"])
    run(["ip", "-n", netns, "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100"])
