# SPDX-License-Identifier: Apache-2.0
"""Requests that flow from a pod, each over a connection of its own.

    load.py NAME ADDRESS...     run in the network of the pod, until SIGTERM; says then how it went

In tests: with Load(pod, addresses) as load: ...; then load.served, load.failures: (when it began by the
monotonic clock, how long it took, what went wrong). A request may wait for half a minute; what counts is that
it is served in the end.
"""

import json
import signal
import socket
import sys
import time

PATIENCE = 70


def request(address, name):
    """None, or what went wrong."""
    try:
        with socket.create_connection((address, 8080), PATIENCE) as s:
            s.sendall(f"GET /load-of-{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            data = b""
            while part := s.recv(4096):
                data += part
        return None if b" 200 OK" in data and b" sees " in data else f"cut: {data[:80]!r}"
    except OSError as e:
        return f"{type(e).__name__}: {e}"


def main(name, addresses):
    served, failures, slowest, going = 0, [], 0.0, [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    while going:
        for address in addresses:
            began = time.monotonic()
            error = request(address, name)
            took = time.monotonic() - began
            slowest = max(slowest, took)
            if error:
                failures.append((began, took, f"{address}: {error}"))
            else:
                served += 1
        time.sleep(0.02)
    print(json.dumps({"served": served, "failures": failures, "slowest": slowest}))


class Load:
    def __init__(self, pod, addresses):
        self.pod, self.addresses = pod, addresses

    def __enter__(self):
        self.process = self.pod.popen(
            "/usr/bin/python3",
            __file__,
            self.pod.name,
            *self.addresses,
            log=f"{self.pod.cluster.directory}/load-{self.pod.name}.log",
        )
        return self

    def __exit__(self, *exc):
        self.process.kill(signal.SIGTERM)
        self.process.wait(PATIENCE + 5)
        if not exc[0]:
            result = json.loads(self.process.last_words(1))
            self.served, self.failures, self.slowest = result["served"], result["failures"], result["slowest"]
        return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
