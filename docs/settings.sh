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
cat <<'TEXT'

More of the environment is read, by the names of the node proxy contract:

| variable | meaning |
|---|---|
| `KUBERNETES_SERVICE_HOST` | every pod has it; where it is set, unset addresses, roots and token are those of a cluster |
| `PROXY_CONFIG`, and the file `etc/istio/config/mesh` below `defaultConfig` | YAML: `discoveryAddress`, `proxyAdminPort`, `statsPort`, `concurrency`, `proxyMetadata`. The variable comes over the file, and settings over both |
| `ISTIO_META_*`, `ISTIO_METAJSON_*` | metadata of the node that the control plane is told, as text or as JSON, over `proxyMetadata` |
| `ISTIO_META_CLUSTER_ID` | before `CLUSTER_ID` |
| `XDS_HEADER_*`, `CA_HEADER_*` | further headers of calls to the control plane and to the certificate authority; names become lower case |
| `TERMINATION_GRACE_PERIOD_SECONDS` | the default of `--drain-deadline`: 5 s less, of 10 s and below 1 s less |
| `LOG_FORMAT` | `json`, as `--log-json` |
| `XDS_ON_DEMAND` | not built; `true` is warned about, and everything is subscribed to |
TEXT
