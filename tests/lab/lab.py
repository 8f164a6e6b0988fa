#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The lab; tests/lab.sh is its front door."""

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile

LAB = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.dirname(LAB))

import world
from show import Show
from steps import Steps
from support.proxies import waypoint

GUIDE = """
The lab is up. Things to try (build directory {build}):

  a shell in a pod                   nsenter --net=/run/netns/bruma-lab-web sh -c 'echo $$ >{cgroup}/n1/web/cgroup.procs; exec bash'
                                     (without its cgroup, connections of the shell would not be captured)
  from there                         curl http://{shop}:8080/        redis-cli -h {cart} PING
  a pod that policy refuses          the same from bruma-lab-intruder, cgroup n1/intruder
  what node 1 knows                  {ctl} --run-dir {run}/n1/run status
                                     {ctl} --run-dir {run}/n1/run pods            (-o json for programs)
                                     {ctl} --run-dir {run}/n1/run connections
                                     {ctl} --run-dir {run}/n1/run identities
  why is this pod as it is           {ctl} --run-dir {run}/n1/run explain store/web
  all of it as a page                {ctl} --run-dir {run}/n1/run dashboard       (prints its address; Ctrl-C ends it)
  would this connection be allowed   {ctl} --run-dir {run}/n1/run explain visitors/intruder {shop}:8080
  is the machine in order            {ctl} --run-dir {run}/n1/run doctor
  the mesh itself                    $EDITOR {run}/mesh.yaml                      (followed at once; watch the agents' logs)
  logs                               tail -f {run}/n1/agent.log {run}/n1/proxy.log {run}/n2/proxy.log
  what crosses between the nodes     nsenter --net=/run/netns/bruma-lab-n1 tcpdump -nAi uplink
  with bpftool alone                 bpftool map dump pinned {pins}/n1/maps/pods
  metrics                            nsenter --net=/run/netns/bruma-lab-n1 curl -s localhost:15020/metrics
  break something                    nsenter --net=/run/netns/bruma-lab-web ip rule del pref 32764      (n1/agent.log tells)
                                     kill -9 {agent}          (n1's agent; traffic does not notice)
"""  # noqa: E501

WAYPOINT_GUIDE = """  through the waypoint               curl http://{books}/ in web, with -X DELETE too; {run}/waypoint/envoy.log has Envoy's view,
                                     {run}/waypoint/waypoint.yaml its configuration
"""  # noqa: E501

LAST_GUIDE = """
  take it all away                   {lab} down
"""


class Interrupted(BaseException):
    """By Ctrl-C, by the end of the terminal or by kill."""


def interrupt(sig, _):
    raise Interrupted(sig)


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def clean_up(show):
    for sig in INTERRUPTS:  # once begun it is finished
        signal.signal(sig, signal.SIG_IGN)
    trouble = world.down()
    for sig in INTERRUPTS:
        signal.signal(sig, interrupt)
    for text in trouble:
        show.say(f"could not be removed: {text}")
    return not trouble


def demonstrate(arguments, show):
    w = world.World(arguments.build)
    s = Steps(w, show)
    made = (
        show.step("two nodes", s.nodes)
        and show.step("agents and proxies", s.programs)
        and show.step("pods, by CNI", s.pods)
    )
    if made:
        show.step("web -> shop on the other node", s.other_node)
        show.step("web -> cart on the same node", s.same_node)
        show.step("intruder refused by policy", s.refused)
        show.step("outside the mesh, untouched", s.untouched)
        show.step("label away and back, mid-download", s.label)
        show.step("BPF maps", s.maps)
        show.step("brumactl", s.tool)
        envoy, why = waypoint.program(w.build)
        if envoy:
            show.step("a waypoint, Envoy", lambda: s.waypoint(envoy))
        else:
            show.skip("a waypoint, Envoy", why)
    good = show.table()
    if made and arguments.keep:
        guide = GUIDE + (WAYPOINT_GUIDE if envoy else "") + LAST_GUIDE
        show.say(
            guide.format(
                build=w.build,
                cgroup=w.state["cgroup"],
                pins=w.state["pins"],
                run=world.RUN,
                ctl=shlex.quote(f"{w.build}/ctl/brumactl"),
                shop=w.shop.ip,
                cart=w.cart.ip,
                agent=w.n1.agent.pid,
                books=world.BOOKS4,
                lab=shlex.quote(f"{LAB}.sh"),
            )
        )
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("command", nargs="?", choices=["down"])
    arguments = parser.parse_args()
    show = Show(11)
    for sig in INTERRUPTS:
        signal.signal(sig, interrupt)

    if arguments.command == "down":
        there = world.is_there()
        good = clean_up(show)
        show.say("the lab is down" if there else "there was no lab")
        return 0 if good else 1
    if world.is_there():
        show.say("a lab is up already; it is taken down first")
        if not clean_up(show):
            return 1
    good, interrupted = False, None
    try:
        good = demonstrate(arguments, show)
    except Interrupted as e:
        interrupted = e.args[0]
        show.say(f"\ninterrupted by {signal.Signals(interrupted).name}; the lab is taken down")
    finally:
        if interrupted or not arguments.keep or not os.path.exists(world.STATE):
            if not good and not interrupted:
                keep_logs(show)
            good = clean_up(show) and good
    return 128 + interrupted if interrupted else 0 if good else 1


def keep_logs(show):
    """Of a lab that failed and is taken down."""
    if not os.path.isdir(world.RUN):
        return
    target = tempfile.mkdtemp(prefix="bruma-lab-logs-")
    for base, _, files in os.walk(world.RUN):
        for name in files:
            if name.endswith((".log", ".yaml", ".conflist", ".pcap")):
                shutil.copy(
                    os.path.join(base, name),
                    os.path.join(
                        target, os.path.relpath(os.path.join(base, name), world.RUN).replace("/", "-")
                    ),
                )
    show.say(f"logs are in {target}")


if __name__ == "__main__":
    sys.exit(main())
