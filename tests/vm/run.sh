#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/vm in an emulated machine, on the kernel that this distribution has:
#
#   tests/vm/run.sh BUILD --junitxml=FILE        77 where there is no such machine
set -uo pipefail

source=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
build=$(readlink -f "${1:?BUILD}") || exit
results=${2:?RESULTS}
results=${results#--junitxml=}
rm -f "$results" "$build/vm/results.xml"
# An emulated processor is some ten times slower: what waits for others waits longer.
"$source/machine.sh" "$build/vm" env PATH="$PATH:/usr/sbin:/sbin" BRUMA_BUILD="$build" PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    /usr/bin/python3 -m pytest -q --color=no -p no:cacheprovider --tb=short --timeout=300 --junitxml=/out/results.xml "$source"
status=$?
[ ! -s "$build/vm/results.xml" ] || cp "$build/vm/results.xml" "$results"
exit "$status"
