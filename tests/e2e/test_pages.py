# SPDX-License-Identifier: Apache-2.0
"""Pages that grow with what the proxy knows: they are made as they are taken, and cost neither its memory nor
its time."""

import hashlib
import json
import re
import socket
import threading

from support import pages
from support.network import inside
from support.xds.site import add, crowd, wait_known

COUNT = 100000
READERS = 12
MAY_GROW = 48 << 20


def memory(proxy, field):
    with open(f"/proc/{proxy.pid}/status") as f:
        return int(re.search(rf"^{field}:\s+(\d+) kB", f.read(), re.M)[1]) * 1024


class Reader(threading.Thread):
    """Takes a page; a slow one a little at first, and the rest when it is told to."""

    def __init__(self, node, slow=False):
        super().__init__(daemon=True)
        self.go, self.len, self.body = threading.Event(), 0, b""
        if not slow:
            self.go.set()
        with inside(node.netns):
            self.socket = socket.create_connection(("127.0.0.1", 15000), timeout=60)
        self.start()

    def run(self):
        with self.socket:
            self.socket.sendall(b"GET /config_dump HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = self.socket.recv(1 << 16)
            self.len = len(text)
            self.go.wait()
            got = [text]
            while chunk := self.socket.recv(1 << 20):
                got.append(chunk)
                self.len += len(chunk)
        self.body = pages.answer(b"".join(got))[1]


def test_dumps_of_a_hundred_thousand_workloads_at_once(new_site):
    site = new_site()
    node = site.node
    add(site, crowd(site.plane, COUNT))
    wait_known(site, COUNT + 2, "all of them", 120)
    with open(f"/proc/{node.proxy.pid}/clear_refs", "w") as f:
        f.write("5")  # the peak is counted anew
    before = memory(node.proxy, "VmRSS")
    readers = [Reader(node, slow=i % 4 == 0) for i in range(READERS)]
    # Others are served all the while.
    answered = 0
    while any(r.is_alive() for r in readers):
        assert node.ready()
        answered += 1
        if all(r.len for r in readers) and answered > 20:
            for r in readers:
                r.go.set()
    assert answered > 20
    peak = memory(node.proxy, "VmHWM")
    bodies = {hashlib.sha256(r.body).hexdigest() for r in readers}
    dump = json.loads(readers[0].body)
    names = [w["uid"] for w in dump["workloads"]]
    assert len(names) == COUNT + 2 and names == sorted(names, key=str.encode)
    assert len(bodies) <= 2 or all(len(json.loads(r.body)["workloads"]) == COUNT + 2 for r in readers)
    told = f"{before >> 20} MiB before, {peak >> 20} MiB at the peak, {len(readers[0].body) >> 20} MiB long"
    print(told)
    assert peak - before < MAY_GROW, told
    assert site.ping() == "ping"
