#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Whether the tree's Python is formatted and passes the linter (ruff.toml), by ruff, and whether test files stand alone.
#
#   tests/format/python.sh BUILD [FILE...]     without files: all of them. Ends with 77 where ruff is not to be had
#
# To format: build/ruff/ruff format
set -uo pipefail

root=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
build=$(readlink -f "${1:?tests/format/python.sh BUILD [FILE...]}") || exit
shift
cd "$root" || exit
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

ensure_ruff "$build" || exit
if [ -n "${BRUMA_RUFF_MISSING:-}" ]; then
    echo "skipped: format of Python: $BRUMA_RUFF_MISSING"
    exit 77
fi
[ $# -gt 0 ] || mapfile -t -d '' files < <(find . -path './build*' -prune -o -name '*.py' -printf '%P\0' | LC_ALL=C sort -z)
[ $# = 0 ] || files=("$@")
bad=0
"$BRUMA_RUFF" format --no-cache --quiet --check "${files[@]}" || bad=1
"$BRUMA_RUFF" check --no-cache --quiet --output-format concise "${files[@]}" || bad=1
# What two test files need is in tests/support, fixtures are in conftest.py.
if grep -nE '^[[:space:]]*(from|import) (test_[a-z0-9_]+|conftest)\b' "${files[@]}"; then
    echo "test files import nothing from test files"
    bad=1
fi
echo "    ${#files[@]} files of Python"
exit "$bad"
