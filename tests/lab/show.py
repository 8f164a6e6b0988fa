# SPDX-License-Identifier: Apache-2.0
"""What the lab prints: progress, what was seen, and the table at the end."""

import sys
import textwrap
import time

WIDTH = 110


class Show:
    def __init__(self, steps):
        self.steps, self.number = steps, 0
        self.rows = []  # (step, verdict, seconds, what was seen)
        self.started = time.monotonic()

    def say(self, text=""):
        print(text, flush=True)

    def saw(self, text):
        """One thing that was seen, below the step's line."""
        for line in text.splitlines() or [""]:
            self.say(
                "\n".join(
                    textwrap.wrap(
                        line,
                        WIDTH - 9,
                        initial_indent="       | ",
                        subsequent_indent="       |   ",
                        break_long_words=False,
                        break_on_hyphens=False,
                    )
                )
                or "       |"
            )

    def raw(self, text):
        """Output of a program, as it is."""
        for line in text.rstrip("\n").splitlines():
            self.say(f"       | {line}")

    def step(self, title, function):
        """Runs one step. It returns a short text of what was seen; an exception is its failure. True if it
        passed."""
        self.number += 1
        self.say(f"[{self.number:2}/{self.steps}] {title}")
        started = time.monotonic()
        try:
            seen = function()
        except Exception as e:  # a step may fail in any way; the others are still worth seeing
            seconds = time.monotonic() - started
            first = str(e) or type(e).__name__
            self.say(f"       FAILED after {seconds:.1f} s")
            self.saw("why: " + first)
            log = getattr(e, "log", None)
            if log:
                self.say(f"       look at: {log}")
                if log.endswith(".log"):
                    self._tail(log)
            self.rows.append((title, "FAILED", seconds, first.splitlines()[0]))
            return False
        seconds = time.monotonic() - started
        self.rows.append((title, "ok", seconds, seen))
        return True

    def skip(self, title, why):
        """A step that cannot be taken here; it is neither passed nor failed."""
        self.number += 1
        self.say(f"[{self.number:2}/{self.steps}] {title}\n       skipped")
        self.saw("why: " + why)
        self.rows.append((title, "skip", 0.0, why))

    def _tail(self, log):
        try:
            with open(log, errors="replace") as f:
                for line in f.readlines()[-5:]:
                    self.say(f"       > {line.rstrip()[: WIDTH * 2]}")
        except OSError as e:
            self.say(f"       > {e}")

    def table(self):
        """The table, and whether everything passed."""
        wide = max((len(r[0]) for r in self.rows), default=4)
        self.say()
        self.say(f"{'step':{wide}}  {'result':6}  {'time':>6}  seen")
        self.say("-" * WIDTH)
        for title, verdict, seconds, seen in self.rows:
            rest = textwrap.wrap(seen or "", max(30, WIDTH - wide - 20)) or [""]
            self.say(f"{title:{wide}}  {verdict:6}  {seconds:5.1f}s  {rest[0]}")
            for line in rest[1:]:
                self.say(" " * (wide + 18) + line)
        good = bool(self.rows) and all(r[1] != "FAILED" for r in self.rows)
        self.say("-" * WIDTH)
        failed, skipped = (sum(r[1] == v for r in self.rows) for v in ("FAILED", "skip"))
        self.say(
            f"{len(self.rows) - failed - skipped} of {self.steps} steps ok{f', {skipped} skipped' if skipped else ''}"
            f"{f', {failed} FAILED' if failed else ''}, {time.monotonic() - self.started:.1f} s"
        )
        sys.stdout.flush()
        return good and len(self.rows) == self.steps
