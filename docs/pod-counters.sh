#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the tables of docs/maps.md that are made from the lists in include/bruma: pod counters; "direct", those of
# direct ways; "long", the reasons of the long way.
set -euo pipefail

cd "$(dirname "$0")/.."
rows() { # heading, header, text of C
    echo "| $1 | what it counts |"
    echo '|---|---|'
    printf '#include "bruma/%s"\n%s\n' "$2" "$3" |
        cc -E -P -Iinclude -xc - | grep -o 'row [a-z_]* "[^"]*"' | sed -E 's/^row (\w+) "(.*)"$/| `\1` | \2 |/'
}
case ${1:-pod} in
pod) rows counter maps.h $'#define ROW(name, what) row name what\nBRUMA_POD_COUNTERS(ROW)' ;;
direct) rows counter direct.h $'#define ROW(name, what) row name what\nBRUMA_DIRECT_COUNTERS(ROW)' ;;
long) rows reason direct.h $'#define ROW(id, name, what) row name what\nBRUMA_LONG_WAYS(ROW)' | sed '1s/what it counts/because/' ;;
*) echo "usage: $0 [pod|direct|long]" >&2 && exit 2 ;;
esac
