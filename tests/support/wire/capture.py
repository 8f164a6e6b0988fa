# SPDX-License-Identifier: Apache-2.0
"""A packet capture between the nodes, and what it holds."""

import os
import signal

from support.system import Process, run, wait_for


class Capture:
    """with Capture(node, file) as c: ... ; then c.bytes, c.packets(filter), c.holds(text). link: of the
    namespace node.netns"""

    what = "tcp"

    def __init__(self, node, path, link="uplink"):
        self.node, self.path, self.link = node, path, link

    def __enter__(self):
        # AppArmor, where it is on, lets the distributions' tcpdump write to files of certain names, and takes
        # away an output that it inherits if its file has another one: *.pcap and *.pcap<digit>* pass.
        self.process = Process(
            [
                "tcpdump",
                "-i",
                self.link,
                "--immediate-mode",
                "-U",
                "-s",
                "0",
                "-B",
                "8192",
                "-w",
                self.path,
                self.what,
            ],
            self.path + "0.log",
            netns=self.node.netns,
        )
        self.process.wait_for_text("listening on")
        return self

    def settle(self):
        """What has crossed the link is in the file once its size stands still."""
        sizes = [-1]

        def still():
            sizes.append(os.path.getsize(self.path))
            return sizes[-1] == sizes[-2]

        wait_for(still, "the capture to stand still", 5, interval=0.3, log=self.process.log)

    def __exit__(self, *exc):
        self.settle()
        self.process.kill(signal.SIGINT)
        self.process.wait(10)
        with open(self.path, "rb") as f:
            self.bytes = f.read()
        return False

    def holds(self, text):
        return text.encode() in self.bytes

    def packets(self, expression):
        """How many captured packets match the filter."""
        out = run(["tcpdump", "-nn", "-r", self.path, expression]).stdout
        return len(out.splitlines())
