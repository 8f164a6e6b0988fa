#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/former.sh COMMIT DIRECTORY: builds the proxy of another commit of this repository in DIRECTORY, and prints its path, for
# BRUMA_FORMER_PROXY.
set -eu

[ $# = 2 ] || { sed -n 's/^# //p' "$0" | sed 1d >&2; exit 2; }
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2/source"
git -C "$top" archive "$1" | tar -x -C "$2/source"
[ -d "$2/build" ] || meson setup "$2/build" "$2/source" >&2
ninja -C "$2/build" proxy/bruma-proxy >&2
echo "$2/build/proxy/bruma-proxy"
