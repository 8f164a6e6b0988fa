# SPDX-License-Identifier: Apache-2.0
"""Connections to one address at a steady rate: new ones, each for one word and back, and some that are kept and used
all the time. Who serves them begins each with a line, its name.

    steady_load.py ADDRESS PORT RATE KEPT      until SIGTERM; then one line of JSON says how it went

A kept one that ends is made anew; that it ended, who served it and when, is part of what is said. It is nobody's fault
if its server has gone. Times are seconds of CLOCK_MONOTONIC.
"""

import asyncio
import json
import signal
import sys
import time

PATIENCE = 20  # seconds that a new connection, or a word, may take
WORD = b"word\n"
BETWEEN_WORDS = 0.25


class Load:
    def __init__(self, address, port, rate, kept):
        self.address, self.port, self.rate, self.kept_wanted = address, port, rate, kept
        self.made, self.late, self.failed, self.cut, self.words = 0, 0, [], [], 0
        self.slowest, self.going, self.tasks = 0.0, True, set()

    async def open(self):
        """(name of who serves, reader, writer)"""
        r, w = await asyncio.open_connection(self.address, self.port)
        try:
            name = await r.readline()
            if not name.endswith(b"\n"):
                raise ConnectionError("closed before it said anything")
            return name.decode().strip(), r, w
        except BaseException:
            w.close()
            raise

    @staticmethod
    async def word(r, w):
        w.write(WORD)
        back = await r.readline()
        if back != WORD:
            raise ConnectionError(f"{back!r} came back")

    async def one(self):
        _, r, w = await self.open()
        try:
            await self.word(r, w)
        finally:
            w.close()

    async def new(self):
        began = time.monotonic()
        try:
            await asyncio.wait_for(self.one(), PATIENCE)
        except (TimeoutError, OSError) as e:
            self.failed.append((began, f"{type(e).__name__}: {e}"))
        self.made += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def keep(self):
        while self.going:
            began = time.monotonic()
            try:
                name, r, w = await asyncio.wait_for(self.open(), PATIENCE)
            except (TimeoutError, OSError) as e:
                self.failed.append((began, f"to be kept: {type(e).__name__}: {e}"))
                continue
            self.made += 1
            try:
                while self.going:
                    await asyncio.wait_for(self.word(r, w), PATIENCE)
                    self.words += 1
                    await asyncio.sleep(BETWEEN_WORDS)
            except (TimeoutError, OSError) as e:
                self.cut.append((time.monotonic(), name, f"{type(e).__name__}: {e}"))
            finally:
                w.close()

    def begin(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: setattr(self, "going", False))
        for _ in range(self.kept_wanted):
            self.begin(self.keep())
        print("READY", flush=True)
        began = start = time.monotonic()
        count = 0
        while self.going:
            behind = time.monotonic() - began - count / self.rate
            if behind < 0:
                await asyncio.sleep(-behind)
            elif behind > 1:  # a busy machine: the rate is what it can do, and this is said
                began, self.late = began + behind, self.late + 1
            self.begin(self.new())
            count += 1
        seconds = time.monotonic() - start
        while self.tasks:
            await asyncio.wait(self.tasks)
        print(
            json.dumps(
                {
                    "made": self.made,
                    "failed": self.failed,
                    "cut": self.cut,
                    "words": self.words,
                    "slowest": self.slowest,
                    "late": self.late,
                    "rate": count / seconds,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(Load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])).run())
