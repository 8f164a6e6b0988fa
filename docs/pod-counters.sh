#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the table of pod counters of docs/maps.md, made from the list in include/bruma/maps.h.
set -euo pipefail

cd "$(dirname "$0")/.."
echo '| counter | what it counts |'
echo '|---|---|'
cc -E -P -Iinclude -xc - <<'TEXT' | grep -o 'row [a-z_]* "[^"]*"' | sed -E 's/^row (\w+) "(.*)"$/| `\1` | \2 |/'
#include "bruma/maps.h"
#define ROW(name, what) row name what
BRUMA_POD_COUNTERS(ROW)
TEXT
