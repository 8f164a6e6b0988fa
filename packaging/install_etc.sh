#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# For `meson install`: configuration is laid down where there is none. What somebody has edited stays as it is; the samples
# of the new version are among the examples.
#   install_etc.sh DIRECTORY FILE...
set -eu

directory=${DESTDIR:-}$1
shift
for source; do
    target=$directory/$(basename "$source")
    if [ ! -e "$target" ] && [ ! -L "$target" ]; then
        install -d -m 755 "$directory"
        install -m 644 "$source" "$target"
    fi
done
