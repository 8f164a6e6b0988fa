#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints docs/settings.md, made from the programs themselves:
#   docs/settings.sh BUILD_DIRECTORY >docs/settings.md
set -euo pipefail

build=${1:?build directory}
cat <<'TEXT'
# Settings

Each setting can be given on the command line (`--name value`) or in the environment; the command line wins. Durations are
written as `10s`, `5m`, `1h30m` or `250ms`; a bare number is seconds. A wrong value ends the start with a message that names
it. This page is printed by the programs: `docs/settings.sh`.

## bruma-agent

TEXT
"$build/agent/bruma-agent" --settings-markdown
cat <<'TEXT'

## bruma-proxy

Names without `BRUMA_` are those of the node proxy contract, so that an existing deployment's environment works as it is.

TEXT
"$build/proxy/bruma-proxy" --settings-markdown
