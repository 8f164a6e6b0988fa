# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Building, for tests/run.sh and tests/lab.sh, which set root (the repository) and jobs.

# A build directory with these options of meson, made if it is not there.
configure() {
    local directory=$1 log
    shift
    log=$directory.setup.log
    if [ -f "$directory/build.ninja" ]; then
        return 0
    fi
    mkdir -p "$(dirname "$directory")"
    rm -rf "$directory"
    # shellcheck disable=SC2154
    if ! (cd "$root" && meson setup "$directory" "$@") >"$log" 2>&1; then
        echo "meson setup failed; the end of $log:"
        tail -20 "$log"
        rm -rf "$directory"
        return 1
    fi
    rm -f "$log"
}

# The build directory's targets, all of them if none is named.
compile() {
    local directory=$1 log
    shift
    log=$directory/build.log
    # shellcheck disable=SC2154
    if ! ninja -C "$directory" -j "$jobs" "$@" >"$log" 2>&1; then
        echo "the build in $directory failed; from $log:"
        grep -E -A12 '^FAILED|error:|ERROR' "$log" | head -60
        return 1
    fi
}
