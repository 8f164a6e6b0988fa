# SPDX-License-Identifier: Apache-2.0
"""A stock Envoy as the sidecar of a pod, in the shape of the bootstrap that a control plane generates: port 15008 for tunnels
(pods with networking.istio.io/tunnel=http), 15006 for what else comes in, 15001 for what goes out in tunnels. What it
captures is redirected by rules in the pod, as istio-init sets them."""

import os
import tempfile

import yaml

from support.nodes.mesh import TRUST_DOMAIN, leaf
from support.system import Process, run, wait_for_process

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
LOG = {
    "name": "envoy.access_loggers.stdout",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {
            "text_format_source": {
                "inline_string": "TUNNEL %DOWNSTREAM_PEER_URI_SAN% %REQ(:AUTHORITY)% %RESPONSE_CODE%\n"
            }
        },
    },
}


def tls(certificate, kind):
    cert, key, root = certificate
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": TLS + kind,
            **({"require_client_certificate": True} if kind == "DownstreamTlsContext" else {}),
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "tls_certificates": [
                    {"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}
                ],
                "validation_context": {
                    "trusted_ca": {"filename": root},
                    "match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"prefix": f"spiffe://{TRUST_DOMAIN}/"}}
                    ],
                },
            },
        },
    }


def address(port, ip="::"):
    return {"socket_address": {"address": ip, "port_value": port, "ipv4_compat": ip == "::"}}


def listener_filter(name, message):
    return {
        "name": f"envoy.filters.listener.{name}",
        "typed_config": {
            "@type": f"type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}"
        },
    }


def tcp_proxy(cluster, **more):
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": TCP, "stat_prefix": cluster, "cluster": cluster, **more},
    }


def tunnels(certificate):
    """Port 15008: each CONNECT is a connection to the application."""
    return {
        "name": "connect_terminate",
        "address": address(15008),
        "filter_chains": [
            {
                "transport_socket": tls(certificate, "DownstreamTlsContext"),
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": HCM,
                            "stat_prefix": "connect_terminate",
                            "codec_type": "HTTP2",
                            "access_log": [LOG],
                            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                            "http2_protocol_options": {"allow_connect": True},
                            "http_filters": [
                                {
                                    "name": "envoy.filters.http.router",
                                    "typed_config": {
                                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                                    },
                                }
                            ],
                            "route_config": {
                                "virtual_hosts": [
                                    {
                                        "name": "connect",
                                        "domains": ["*"],
                                        "routes": [
                                            {
                                                "match": {"connect_matcher": {}},
                                                "route": {
                                                    "cluster": "application",
                                                    "timeout": "0s",
                                                    "upgrade_configs": [
                                                        {"upgrade_type": "CONNECT", "connect_config": {}}
                                                    ],
                                                },
                                            }
                                        ],
                                    }
                                ]
                            },
                        },
                    }
                ],
            }
        ],
    }


def bootstrap(certificate, port, strict, tunnel):
    """tunnel: it takes tunnels, and makes them. strict: it takes nothing in plaintext."""
    plain = {"filters": [tcp_proxy("application")]}
    if strict:
        plain["filter_chain_match"] = {"transport_protocol": "tls"}
    inbound = {
        "name": "virtualInbound",
        "address": address(15006),
        "listener_filters": [
            listener_filter("original_dst", "OriginalDst"),
            listener_filter("tls_inspector", "TlsInspector"),
        ],
        "filter_chains": [plain],
    }
    outbound = {
        "name": "virtualOutbound",
        "address": address(15001),
        "listener_filters": [listener_filter("original_dst", "OriginalDst")],
        "filter_chains": [
            {
                "filters": [
                    tcp_proxy(
                        "connect_originate", tunneling_config={"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"}
                    )
                ]
            }
        ],
    }
    application = {
        "name": "application",
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port, "127.0.0.1")}}]}],
        },
    }
    originate = {
        "name": "connect_originate",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "original_dst_lb_config": {"upstream_port_override": 15008},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}},
            }
        },
        "transport_socket": tls(certificate, "UpstreamTlsContext"),
    }
    return {
        "admin": {"address": address(15000, "127.0.0.1")},
        "static_resources": {
            "listeners": [inbound, *([outbound, tunnels(certificate)] if tunnel else [])],
            "clusters": [application, *([originate] if tunnel else [])],
        },
    }


class Sidecar:
    """The Envoy of a pod whose application listens to the port. peers: addresses that it makes tunnels to."""

    def __init__(self, mesh, pod, envoy, port=8080, strict=False, tunnel=True, peers=()):
        self.pod, self.port, self.peers = pod, port, peers
        directory = tempfile.mkdtemp(prefix=pod.name, dir=mesh.dir)
        certificate = leaf(mesh, pod.identity)
        path = os.path.join(directory, "sidecar.yaml")
        with open(path, "w") as f:
            yaml.safe_dump(bootstrap(certificate, port, strict, tunnel), f)
        self.process = Process(
            [
                envoy,
                "-c",
                path,
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "50",
            ],
            os.path.join(directory, "envoy.log"),
            netns=pod.netns,
            cgroup=pod.node.cgroup,
        )
        wait_for_process(self.process, self.ready, "the sidecar to be ready", 60)
        self.redirect()

    def redirect(self):
        """As istio-init: what comes in, but not to 15008, and what goes out to the peers' application."""
        for tool, local in (("iptables-nft", "127.0.0.1"), ("ip6tables-nft", "::1")):
            rules = [
                [
                    "PREROUTING",
                    "-p",
                    "tcp",
                    "--dport",
                    str(self.port),
                    "-j",
                    "REDIRECT",
                    "--to-ports",
                    "15006",
                ]
            ]
            for peer in self.peers:
                if (":" in peer) == (":" in local):
                    out = ["OUTPUT", "-p", "tcp", "-d", peer, "--dport", str(self.port)]
                    rules.append([*out, "-j", "REDIRECT", "--to-ports", "15001"])
            for rule in rules:
                run([tool, "-t", "nat", "-A", *rule], netns=self.pod.netns)

    def ready(self):
        urls = ["http://127.0.0.1:15000/ready", "http://127.0.0.1:15000/stats?filter=workers_started"]
        r = run(["curl", "-s", "-m", "2", *urls], netns=self.pod.netns, check=False)
        return "LIVE" in r.stdout and "listener_manager.workers_started: 1" in r.stdout

    def tunnels(self):
        """Lines of its log: TUNNEL IDENTITY AUTHORITY STATUS"""
        return [line for line in self.process.text().splitlines() if line.startswith("TUNNEL ")]

    def stop(self):
        self.process.kill()
        for tool in ("iptables-nft", "ip6tables-nft"):
            run([tool, "-t", "nat", "-F"], netns=self.pod.netns)
