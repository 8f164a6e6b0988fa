# SPDX-License-Identifier: Apache-2.0
"""Many connections of every kind, half of them idle, some in bulk, some half-closed, some with unread bytes, through upgrades of
both nodes' proxies at once, while new ones come all the time: none breaks, no byte is wrong, none is refused.

BRUMA_HAND_OVER_CONNECTIONS (default 150) and BRUMA_HAND_OVER_UPGRADES (3) make it large; BRUMA_HAND_OVER_RATE (50) new ones a
second come meanwhile. BRUMA_HAND_OVER_BULK: so many megabytes a second do those in bulk say together, and chatty ones a word
every 20 ms; 0, the default: all they can, which fills the machine. What it took, as the proxies say and as chatty ones have seen
it, is in hand-over-report.txt of the build directory."""

import json
import os
import time

import pytest

from support.nodes.hand_over import PYTHON, Talkers, hand_over_mesh, handed_over, next_proxy, told
from support.programs import BUILD
from support.system import wait_for

CONNECTIONS = int(os.environ.get("BRUMA_HAND_OVER_CONNECTIONS", "150"))
UPGRADES = int(os.environ.get("BRUMA_HAND_OVER_UPGRADES", "3"))
KINDS = "qqqqqphpqg" * 3 + "qqqqqpphpb"  # see support/nodes/hand_over.py
RATE = int(os.environ.get("BRUMA_HAND_OVER_RATE", "50"))
BULK = float(os.environ.get("BRUMA_HAND_OVER_BULK", "0"))

# New connections at a rate, each for one word and back, until stdin ends; then how many there were, and what was wrong.
LOAD = """
import asyncio, json, sys, time
address, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
made, wrong = 0, []

async def one():
    global made
    made += 1
    try:
        r, w = await asyncio.wait_for(asyncio.open_connection(address, port), 20)
        w.write(b"word")
        w.write_eof()
        back = await asyncio.wait_for(r.read(), 20)
        if back != b"word":
            wrong.append(f"{back!r} came back")
        w.close()
    except Exception as e:
        wrong.append(f"{type(e).__name__}: {e}")

async def main():
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    begun, n, tasks = time.monotonic(), 0, set()
    print("READY", flush=True)
    while not end.done():
        while n < (time.monotonic() - begun) * rate:
            n += 1
            t = asyncio.create_task(one())
            tasks.add(t)
            t.add_done_callback(tasks.discard)
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    print(json.dumps([made, wrong]), flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def mesh():
    with hand_over_mesh("8081") as m:
        yield m


class Load:
    def __init__(self, client, address):
        self.process = client.pipe(
            PYTHON, "-u", "-c", LOAD, address, "8081", str(RATE / 2), stdin=-1, stdout=-1, text=True
        )
        assert self.process.stdout.readline() == "READY\n"

    def end(self):
        out, _ = self.process.communicate("", timeout=60)
        return json.loads(out)


def part(values, share):
    """The value below which so many of a hundred are."""
    return sorted(values)[min(len(values) - 1, len(values) * share // 100)]


class Report:
    def __init__(self):
        self.lines, self.times = [], []

    def add(self, talkers, what, counts=True):
        """How long chatty ones have waited for an answer since the last time."""
        times = [time for t in talkers for time in t.times()]
        self.lines.append(f"{what}: an answer took at most {self.told(times)}")
        if counts:
            self.times += times

    @staticmethod
    def told(times):
        return ", ".join(f"{part(times, p):.1f} ms ({p} %)" for p in (50, 99, 100))

    def write(self, *lines):
        lines = [*lines, *self.lines, f"in all upgrades: {self.told(self.times)}"]
        with open(f"{BUILD}/hand-over-report.txt", "w") as f:
            print(*lines, sep="\n", file=f)


def test_none_breaks_no_byte_is_wrong_none_is_refused(mesh):
    m = mesh
    ways = [(m.web, m.outside), (m.outside, m.shop), (m.web, m.shop), (m.web, m.cart), (m.cart, m.shop)]
    pace = int(BULK * 1e6 / (CONNECTIONS * sum(k in "bg" for k in KINDS) / len(KINDS)))
    talkers = [
        Talkers(
            client,
            server.ips[i % 2],
            CONNECTIONS // len(ways) * share // 10,
            5_000,
            kinds,
            1 << 20,
            port,
            pace,
        )
        for i, (client, server) in enumerate(ways)
        for share, kinds, port in ((9, KINDS, 8080), (1, "c", 8081))
    ]
    loads = [Load(m.web, m.cart.ip), Load(m.outside, m.shop.ip6)]
    report = Report()
    report.add(talkers, "at the start", counts=False)
    time.sleep(1)
    report.add(talkers, "without an upgrade", counts=False)
    for n in range(UPGRADES):
        for t in talkers:
            t.say("stall" if n % 2 else "read")
        texts = [next_proxy(node) for node in m.nodes]
        for node, (old, text) in zip(m.nodes, texts, strict=True):
            moved = handed_over(node, text)
            wait_for(lambda text=text: "connections were taken over" in text(), "the new one's word of it")
            report.lines.append(f"{node.name}: {moved}, {told(text(), 'connections were taken over')}")
            assert moved["left"] == 0, (moved, text()[-2000:])
            wait_for(
                lambda old=old: not old.alive(),
                "the old one to end, which carries nothing any more",
                timeout=60,
            )
        report.add(talkers, f"upgrade {n + 1}")
        for t in talkers:
            t.say("read")
            t.goes_on(1000)
    for t in talkers:
        t.end()
    for load in loads:
        made, wrong = load.end()
        assert made > RATE / 2 and not wrong, (made, wrong[:5])
        report.lines.append(f"{made} new connections")
    report.write(f"{CONNECTIONS} connections, {UPGRADES} upgrades of each of two nodes")
