#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the page's files as C: embed.py OUTPUT FILE... The program needs no file of its own then."""

import os
import sys

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def main(output, *files):
    text = ['#include "ctl/dashboard/assets.h"\n\n']
    for i, path in enumerate(files):
        with open(path, "rb") as f:
            data = f.read()
        rows = (data[at : at + 24] for at in range(0, len(data), 24))
        text.append(f"static const unsigned char file_{i}[] = {{\n")
        text += ["    " + ",".join(map(str, row)) + ",\n" for row in rows]
        text.append("};\n\n")
    text.append("const struct dashboard_asset dashboard_assets[] = {\n")
    for i, path in enumerate(files):
        name = os.path.basename(path)
        name = "" if name == "index.html" else name
        kind = TYPES[os.path.splitext(path)[1]]
        text.append(f'    {{"/{name}", "{kind}", file_{i}, sizeof(file_{i})}},\n')
    text.append(f"}};\nconst size_t dashboard_assets_len = {len(files)};\n")
    with open(output, "w") as f:
        f.writelines(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
