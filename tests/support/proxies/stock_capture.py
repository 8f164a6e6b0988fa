# SPDX-License-Identifier: Apache-2.0
"""What the stock CNI agent sets up in a pod: the rules as they were saved in a pod of a real cluster (tests/data/capture), mark
rule and route. The rules' order and words are part of the contract between that agent and a node proxy."""

from support.programs import DATA
from support.system import run, sh

FAMILIES = (
    ("-4", "iptables", "iptables-save.txt", "0.0.0.0/0"),
    ("-6", "ip6tables", "ip6tables-save.txt", "::/0"),
)


def install(netns):
    for family, tool, saved, everything in FAMILIES:
        with open(f"{DATA}/capture/{saved}") as rules:
            run([f"{tool}-nft-restore"], netns=netns, stdin=rules)
        ip = ("ip", "-n", netns, family)
        sh(*ip, "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
        sh(*ip, "route", "add", "local", everything, "dev", "lo", "table", "100")


def remove_rules(netns):
    for _, tool, _, _ in FAMILIES:
        for table in ("nat", "mangle", "raw"):
            for option in ("-F", "-X"):
                run([f"{tool}-nft", "-t", table, option], netns=netns)
