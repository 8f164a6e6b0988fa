#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a fuzz target from its seeds and what earlier runs have found, as a test of meson's.
#
#   run_target.sh NAME PROGRAM BUILD
#
# Environment: BRUMA_FUZZ_SECONDS (12). An input that breaks it is in BUILD/findings.
set -uo pipefail

name=$1 program=$2 build=$3
seeds=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/corpus/$name
seconds=${BRUMA_FUZZ_SECONDS:-12}

if [ -z "$(ls -A "$seeds" 2>/dev/null)" ]; then
    echo "fuzz target $name has no seeds in tests/fuzz/corpus/$name"
    exit 1
fi
mkdir -p "$build/corpus/$name" "$build/findings"
log=$build/fuzz-$name.log
"$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" "$seeds" >"$log" 2>&1
r=$?
echo "TAP version 13"
if [ "$r" = 0 ]; then
    echo "ok 1 - $name"
    echo "# $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $seconds s"
else
    echo "not ok 1 - $name, exit $r; its input is in $build/findings"
    grep -a -v '^#' "$log" | tail -40 | sed 's/^/#   /'
fi
echo "1..1"
exit "$r"
