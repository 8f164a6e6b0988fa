#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures Bruma beside no mesh, a plain relay and other node proxies; README.md here tells what and how.
#   tests/bench/bench.sh [--profile smoke|quick|full] [--peer NAME=PATH]... [--only TEST]... [--out DIRECTORY]
# Environment: BRUMA_BUILD (build directory, default <repo>/build), BRUMA_JOBS
set -uo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$(cd "$here/../.." && pwd)
build=${BRUMA_BUILD:-$root/build}
case "$build" in
/*) ;;
*) build=$PWD/$build ;;
esac
jobs=${BRUMA_JOBS:-$(nproc)}
export PYTHONDONTWRITEBYTECODE=1
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"
# shellcheck source=tests/build.sh
. "$root/tests/build.sh"

if [ "$(id -u)" != 0 ]; then
    echo "the bench needs root: it makes network namespaces and loads BPF programs" >&2
    exit 1
fi
ensure_packages build lab bench || exit 1
configure "$build" || exit 1
compile "$build" agent/bruma-agent proxy/bruma-proxy cni/bruma-cni tests/bench/bench-{server,load,relay,handshakes} ||
    exit 1
exec /usr/bin/python3 "$here/bench.py" --build "$build" "$@"
