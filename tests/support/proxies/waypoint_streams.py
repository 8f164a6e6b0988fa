# SPDX-License-Identifier: Apache-2.0
"""Long streams through a waypoint: bytes of which it knows nothing, gRPC, and HTTP/1.1 that is kept alive."""

import copy

import yaml

from support.nodes.hand_over import MIRROR
from support.nodes.pod_programs import HTTP_APP
from support.proxies import waypoint
from support.sessions import Dialog, Postgres, Redis
from support.system import wait_for

PYTHON = "/usr/bin/python3"
RPC = 9090
PORTS = {80: 8080, 8080: 8080, RPC: RPC, Redis.PORT: Redis.PORT, Postgres.PORT: Postgres.PORT}

# Answers each message of a call with what it is backwards.
RPC_SERVER = """
import concurrent.futures, grpc, sys
def say(messages, context):
    for m in messages:
        yield m[::-1]
server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
handler = grpc.method_handlers_generic_handler("demo.Words", {"Say": grpc.stream_stream_rpc_method_handler(say)})
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
print("READY", flush=True)
server.wait_for_termination()
"""

# What both clients do: one exchange after the other, all on the one connection; a line of stdin is answered with how many there
# have been, and what went wrong.
ASKED = """
import hashlib, os, random, select, sys, time
def sizes():
    return os.urandom(random.choice((1, 100, 16384, 50000)))
def talk(exchange):
    n, wrong = 0, ""
    while True:
        if wrong or select.select([0], [], [], 0.002)[0]:
            if not sys.stdin.readline():
                os._exit(0)
            print(f"{n};{wrong}", flush=True)
            continue
        try:
            exchange()
            n += 1
        except Exception as e:
            wrong = f"{type(e).__name__} {e}".replace(chr(10), " ")
"""

RPC_CLIENT = (
    ASKED
    + """
import grpc, queue
words = queue.Queue()
channel = grpc.insecure_channel(f"{sys.argv[1]}:{sys.argv[2]}")
answers = channel.stream_stream("/demo.Words/Say")(iter(words.get, None))
def exchange():
    word = sizes()
    words.put(word)
    assert next(answers) == word[::-1], "other bytes"
talk(exchange)
"""
)

HTTP_CLIENT = (
    ASKED
    + """
import http.client
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
connection.connect()
connection.auto_open = 0
def exchange():
    body = sizes()
    connection.request("POST", "/", body, {"x-version": "v2"})
    answer = connection.getresponse()
    assert (answer.status, answer.read().decode()) == (200, hashlib.sha256(body).hexdigest()), answer.status
talk(exchange)
"""
)


class Exchanges:
    def __init__(self, client, code, address, port):
        host = f"[{address}]" if ":" in address and code is RPC_CLIENT else address
        self.dialog = Dialog(client, PYTHON, "-u", "-c", code, host, str(port))

    def count(self):
        n, wrong = self.dialog.say("look").split(";", 1)
        assert not wrong, wrong
        return int(n)

    def goes_on(self):
        before = self.count()
        wait_for(lambda: self.count() > before + 4, "more exchanges")

    def end(self):
        self.dialog.end()


def serve(m):
    """v1 has all but HTTP, which is v2's."""
    m.v1.server(MIRROR, "8080")
    m.v1.server(RPC_SERVER, RPC)
    m.v2.server(HTTP_APP, "v2")


class Waypoint(waypoint.Waypoint):
    """The sample, with more ports of its service, which go to the first pod."""

    def text(self):
        config = yaml.safe_load(super().text())
        resources = config["static_resources"]
        (listener,) = (x for x in resources["listeners"] if x["name"] == "service")
        chains, clusters = listener["filter_chains"], resources["clusters"]
        http, v1 = chains[0], next(c for c in clusters if c["name"] == "shop-v1")
        for port, target in PORTS.items():
            if port == 80:
                continue
            name = f"port-{port}"
            clusters.append(self.cluster(v1, name, target))
            chain = copy.deepcopy(http)
            chain["name"] = name
            chain["filter_chain_match"]["destination_port"] = port
            if port == RPC:
                routes = chain["filters"][-1]["typed_config"]["route_config"]["virtual_hosts"][0]
                routes["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}]
            else:
                chain["filters"] = [tcp(name)]
            chains.append(chain)
        return yaml.safe_dump(config)

    @staticmethod
    def cluster(v1, name, port):
        made = yaml.safe_load(yaml.safe_dump({**v1, "name": name}).replace(":8080", f":{port}"))
        made["load_assignment"]["cluster_name"] = name
        address = made["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        if "socket_address" in address:
            address["socket_address"]["port_value"] = port
        if port == RPC:
            extension = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
            made["typed_extension_protocol_options"] = {
                extension: {
                    "@type": f"type.googleapis.com/{extension}",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            }
        return made


def tcp(cluster):
    name = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    config = {"@type": f"type.googleapis.com/{name}", "stat_prefix": cluster, "cluster": cluster}
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}
