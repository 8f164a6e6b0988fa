#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints docs/settings.md, made from the programs themselves:
#   docs/settings.sh BUILD_DIRECTORY >docs/settings.md
set -euo pipefail

build=${1:?build directory}
cat <<'TEXT'
# Settings

Each setting can be given on the command line (`--name value`) or in the environment; the command line wins. Durations are
written as `10s`, `5m`, `1h30m` or `250ms`; a bare number is seconds. With an invalid value the program does not start and
says which it is. This page is generated from the programs by `docs/settings.sh`.

## bruma-agent

TEXT
"$build/agent/bruma-agent" --settings-markdown
cat <<'TEXT'

## bruma-proxy

Names without `BRUMA_` are those of ztunnel, so that the environment of an existing deployment works unchanged.

TEXT
"$build/proxy/bruma-proxy" --settings-markdown
cat <<'TEXT'

These variables are read as well:

| variable | meaning |
|---|---|
| `KUBERNETES_SERVICE_HOST` | set in every pod; if it is set, defaults of addresses, roots and token are those of a cluster |
| `PROXY_CONFIG`, and the file `etc/istio/config/mesh` below `defaultConfig` | YAML: `discoveryAddress`, `proxyAdminPort`, `statsPort`, `concurrency`, `proxyMetadata`. The variable overrides the file, and settings override both. The file's `outboundTrafficPolicy`, at its top, is used too |
| `ISTIO_META_*`, `ISTIO_METAJSON_*` | node metadata for the control plane, as text or as JSON, overriding `proxyMetadata` |
| `ISTIO_META_CLUSTER_ID` | overrides `CLUSTER_ID` |
| `ISTIO_META_DNS_CAPTURE` | any value but `true`: the proxy answers no DNS queries. With `INPOD_UDS` or `PROXY_MODE=dedicated` nothing listens on 15053; with bruma-agent, whose `AMBIENT_DNS_CAPTURE` says what is captured, all queries are forwarded |
| `ISTIO_META_ISTIO_VERSION` | the version that metrics and the config dump show |
| `XDS_HEADER_*`, `CA_HEADER_*` | additional headers of calls to the control plane and the certificate authority; names are converted to lower case |
| `TERMINATION_GRACE_PERIOD_SECONDS` | default of `--drain-deadline`: 5 s less than this, or 1 s less if it is at most 10 s |
| `LOG_FORMAT` | `json`, as `--log-json` |
TEXT
