#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The picture of the floors, from floors.txt.

tests/floors/picture.py >docs/pictures/floors.svg
"""

import html
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HEIGHT, GAP, TITLE, MARGIN = 400, 34, 6, 30, 24
LETTER = 5.4  # the width of a small one, in a wide font

STYLE = """\
  <style>
    .page { fill: #fff; }
    .room { fill: #e9f5e4; stroke: #4d8a35; }
    .line { fill: none; stroke: #333; stroke-width: 1.5; marker-end: url(#tip); }
    .tip { fill: #333; }
    text { fill: #222; }
    .name { font-weight: bold; }
    .title { font-size: 15px; font-weight: bold; }
    .small { font-size: 10px; fill: #555; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      .room { fill: #12261a; stroke: #6cbf4b; }
      .line { stroke: #adb5bd; }
      .tip { fill: #adb5bd; }
      text { fill: #e6edf3; }
      .small { fill: #a9b3bd; }
    }
  </style>
  <defs>
    <marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
      <path class="tip" d="M0 0 L10 5 L0 10 z"/>
    </marker>
  </defs>"""


def read():
    """Of each program: its floors, each a list of (room, what it is for)."""
    found, floors = {}, None
    with open(os.path.join(HERE, "floors.txt")) as f:
        for line in f:
            rooms, _, words = line.partition("#")
            rooms = rooms.split()
            if rooms and rooms[0].startswith("["):
                floors = found.setdefault(rooms[0].strip("[]"), [])
            elif rooms:
                words = [w.strip() for w in words.split(";", len(rooms) - 1)]
                floors.append(list(zip(rooms, words + [""] * len(rooms), strict=False)))
    return found


def text(x, y, words, kind):
    return f'  <text class="{kind}" x="{x}" y="{y}">{html.escape(words, quote=False)}</text>'


def column(program, floors, x, y):
    bottom = y + TITLE + len(floors) * (HEIGHT + GAP) - GAP
    lines = [
        text(x, y + 18, f"{program}/", "title"),
        f'  <path class="line" d="M{x - 10} {y + TITLE} V{bottom}"/>',
    ]
    for number, rooms in enumerate(floors):
        top, width = y + TITLE + number * (HEIGHT + GAP), (WIDTH - GAP * (len(rooms) - 1)) // len(rooms)
        for place, (room, words) in enumerate(rooms):
            left = x + place * (width + GAP)
            if 8 + len(words) * LETTER > width - 8:
                sys.exit(f"floors.txt: {program}/{room}: {words!r} does not fit into its box")
            lines += [
                f'  <rect class="room" x="{left}" y="{top}" width="{width}" height="{HEIGHT}" rx="4"/>',
                text(left + 8, top + 14, "its own files" if room == "." else room, "name"),
                text(left + 8, top + 27, words, "small"),
            ]
    return lines, bottom


def main():
    programs, lines, ends = read(), [], []
    first, *others = programs
    made, bottom = column(first, programs[first], MARGIN, 8)
    lines += made
    ends.append(bottom)
    x, y = 2 * MARGIN + WIDTH, 8
    for program in others:
        made, bottom = column(program, programs[program], x, y)
        lines += made
        y = bottom + 28
    ends.append(bottom)
    lines += [
        text(x, y + 4, "A room calls rooms on floors below its own, and what it was handed.", "small"),
        text(x, y + 18, "Both programs call lib.", "small"),
    ]
    ends.append(y + 18)
    width, height = x + WIDTH + MARGIN // 2, max(ends) + 12
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    )
    print(
        "  <!-- SPDX-License-Identifier: Apache-2.0; made by tests/floors/picture.py from tests/floors/floors.txt -->"
    )
    print(STYLE)
    print(f'  <rect class="page" width="{width}" height="{height}"/>')
    print("\n".join(lines))
    print("</svg>")


if __name__ == "__main__":
    main()
