#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes Debian packages of this tree, into a directory:
#     packaging/deb.sh DIRECTORY [OPTION...]        options of dpkg-buildpackage; --host-arch arm64 builds for another one
# The same sources give the same bytes, wherever and whenever they are built with the same packages of the distribution.
set -euo pipefail

[ $# -gt 0 ] && [[ $1 != -* ]] || {
    sed -n '3,5s/^# *//p' "$0" >&2
    exit 2
}
out=$(realpath -m "$1")
shift
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
version=$(dpkg-parsechangelog -l "$root/packaging/debian/changelog" -S Version)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
source=$scratch/bruma-$version
mkdir -p "$source" "$out"
if git -C "$root" rev-parse --git-dir >/dev/null 2>&1; then
    git -C "$root" ls-files -z --cached --others --exclude-standard
else
    (cd "$root" && find . \( -path './build*' -o -path ./.git \) -prune -o ! -type d -print0)
fi | tar -c -C "$root" --null --ignore-failed-read -T - | tar -x -C "$source"
mv "$source/packaging/debian" "$source/debian"
(cd "$source" && dpkg-buildpackage --build=binary --no-sign "$@")
mv "$scratch"/*.deb "$scratch"/*.buildinfo "$scratch"/*.changes "$out"
