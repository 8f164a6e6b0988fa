# SPDX-License-Identifier: Apache-2.0
"""Two networks, each a mesh of one node, whose pods cannot reach each other: all that the first can reach of the second are
its east-west gateways, stock Envoys with the sample of docs/networks.md.

    web (client), near (a server)      home network
    shop, shop-2 (servers)             away network
    gateway, gateway-2                 away network, outside of its mesh
"""

import shutil
import tempfile

from support.nodes.mesh import TRUST_DOMAIN, Mesh, leaf
from support.programs import ROOT
from support.proxies import waypoint
from support.system import Failed, run, sh, wait_for

SAMPLE = f"{ROOT}/packaging/east-west-gateway.yaml"
HOST = "shop.demo.svc.cluster.local"
VIP4, VIP6 = "10.96.0.20", "fd00:96::20"
HOME, AWAY = "home", "away"
KEY = f"demo/{HOST}"
PORTS = {80: 8080, 81: 9000, 82: 7000}
GATEWAY_HOST = "gateway.demo.svc.cluster.local"


def certificates(pod, mesh, identity):
    """A directory with cert.pem, key.pem and root.pem."""
    directory = tempfile.mkdtemp(prefix=pod.name, dir=mesh.dir)
    cert, key, root = leaf(mesh, identity)
    for source, name in ((cert, "cert"), (key, "key"), (root, "root")):
        shutil.copy(source, f"{directory}/{name}.pem")
    return directory


class Gateway(waypoint.Waypoint):
    """In a pod, for one service: its hostname, its ports, and (address, port) of its endpoints. directory: where cert.pem,
    key.pem and root.pem are."""

    def __init__(self, program, pod, directory, endpoints, host=HOST, ports=PORTS):
        super().__init__(program, directory, pod.netns, pod.node.cgroup, sample=SAMPLE)
        self.endpoints, self.host, self.ports = endpoints, host, ports

    def text(self):
        with open(SAMPLE) as f:
            text = f.read()
        if "/etc/gateway" not in text:
            raise Failed(f"{SAMPLE} names no directory of certificates")
        text = text.replace("/etc/gateway", self.directory)
        domains = ", ".join(f'"{self.host}:{port}"' for port in self.ports)
        if f'domains: ["{HOST}:80"]' not in text:
            raise Failed(f"{SAMPLE} has no domains")
        text = text.replace(f'domains: ["{HOST}:80"]', f"domains: [{domains}]")
        head, mark, _ = text.partition("      - lb_endpoints:\n")
        if not mark:
            raise Failed(f"{SAMPLE} has no endpoints")
        lines = [
            f'        - endpoint: {{address: {{socket_address: {{address: "{ip}", port_value: {port}}}}}}}\n'
            for ip, port in self.endpoints
        ]
        return head + mark + "".join(lines)

    def stat(self, name):
        """The sum of Envoy's counters and gauges with that in their names."""
        text = run(
            ["curl", "-s", "-m", "2", f"http://127.0.0.1:15000/stats?filter={name}"], netns=self.netns
        ).stdout
        return sum(int(line.rsplit(":", 1)[1]) for line in text.splitlines() if ":" in line)


class Networks:
    def __init__(self, program, home_env=None, away_env=None, workers=1, start=True):
        self.program = program
        self.home = Mesh(nodes=1, workers=workers, proxy_env={"NETWORK": HOME, **(home_env or {})})
        self.away = Mesh(nodes=1, workers=workers, proxy_env={"NETWORK": AWAY, **(away_env or {})})
        if self.away.net == self.home.net:
            raise Failed("both networks have the same addresses")
        shutil.copy(self.home.ca_key, self.away.ca_key)
        self.web, self.near = self.home.pod("web"), self.home.pod("near", account="near")
        self.shop = self.away.pod("shop")
        self.shop2 = self.away.pod("shop-2", account="shop")
        self.spare = self.away.pod("spare")
        self.spare.outside = True
        self.pods = [self.away.pod(f"gateway{n}", account="gateway") for n in ("", "-2")]
        for pod in self.pods:
            pod.outside = True
        self.gateways = []
        self.names = [self.shop.identity]
        self.remote, self.gateway_extra, self.service_extra = {"capacity": 1}, {}, {}
        self.near_serves, self.references = False, "address"
        self.extra = []

    @property
    def nodes(self):
        """Of the clients, and of the servers."""
        return self.home.nodes[0], self.away.nodes[0]

    # ---- what both meshes know ----

    def gateway_ip(self, n=0):
        return self.pods[n].ip

    def home_workloads(self):
        gateways = [
            {
                "uid": f"NetworkGateway/{AWAY}/{p.ip}/15008",
                "name": p.name,
                "namespace": "demo",
                "serviceAccount": "gateway",
                "network": AWAY,
                "workloadIps": [p.ip, p.ip6],
                "services": {f"demo/{GATEWAY_HOST}": {15008: 15008}},
                **self.gateway_extra,
            }
            for p in self.pods[: len(self.gateways) or 1]
        ]
        destination = {
            "address": f"{AWAY}/{self.gateway_ip()}",
            "address6": f"{AWAY}/{self.pods[0].ip6}",
            "hostname": f"demo/{GATEWAY_HOST}",
            None: None,
        }[self.references]
        remote = {
            "uid": f"{AWAY}/SplitHorizonWorkload/gateway/{KEY}",
            "name": "shop-away",
            "namespace": "demo",
            "network": AWAY,
            "clusterId": AWAY,
            "protocol": "HBONE",
            "services": {KEY: PORTS},
            **self.remote,
        }
        if destination:
            remote["networkGateway"] = {"destination": destination, "hboneMtlsPort": 15008}
        return [remote, *gateways, *self.extra]

    def write(self):
        for mesh, network in ((self.home, HOME), (self.away, AWAY)):
            for pod in mesh.pods:
                pod.more = {"network": network, "locality": {"region": network, "zone": f"{network}-1"}}
        self.near.services = {KEY: PORTS} if self.near_serves else {}
        self.shop.services = self.shop2.services = {KEY: PORTS}
        service = {"name": "shop", "namespace": "demo", "hostname": HOST, "ports": PORTS}
        self.home.services[:] = [
            {
                **service,
                "vips": [f"{HOME}/{VIP4}", f"{HOME}/{VIP6}"],
                "subjectAltNames": self.names,
                **self.service_extra,
            },
            {
                "name": "gateway",
                "namespace": "demo",
                "hostname": GATEWAY_HOST,
                "vips": [],
                "ports": {15008: 15008},
                "subjectAltNames": [],
            },
        ]
        self.away.services[:] = [{**service, "vips": [f"{AWAY}/10.97.0.20"]}]
        self.home.extra[:] = self.home_workloads()
        self.home.write()
        self.away.write()

    def publish(self, known):
        """Writes, and waits until the client's proxy knows: known(dump)."""
        self.write()
        wait_for(lambda: known(self.home.nodes[0].config_dump()), "the client's proxy to know of the change")

    # ---- links ----

    def link(self):
        """Between the nodes. The home network knows the way to the gateways alone."""
        a, b = self.home.nodes[0], self.away.nodes[0]
        sh("ip", "-n", a.netns, "link", "add", "wan", "type", "veth", "peer", "name", "wan", "netns", b.netns)
        for node, n in ((a, 1), (b, 2)):
            sh("ip", "-n", node.netns, "addr", "add", f"203.0.113.{n}/24", "dev", "wan")
            sh("ip", "-n", node.netns, "addr", "add", f"2001:db8:77::{n}/64", "dev", "wan", "nodad")
            sh("ip", "-n", node.netns, "link", "set", "wan", "up")
        for p in self.pods:
            sh("ip", "-n", a.netns, "route", "add", f"{p.ip}/32", "via", "203.0.113.2")
            sh("ip", "-n", a.netns, "-6", "route", "add", f"{p.ip6}/128", "via", "2001:db8:77::2")
        sh("ip", "-n", b.netns, "route", "add", f"10.{self.home.net}.1.0/24", "via", "203.0.113.1")
        sh(
            "ip",
            "-n",
            b.netns,
            "-6",
            "route",
            "add",
            f"fd00:{self.home.net:x}:1::/64",
            "via",
            "2001:db8:77::1",
        )

    def gateway(self, n=0, endpoints=None, account="gateway"):
        identity = f"spiffe://{TRUST_DOMAIN}/ns/demo/sa/{account}"
        return Gateway(
            self.program,
            self.pods[n],
            certificates(self.pods[n], self.away, identity),
            endpoints or [(self.shop.ip, 15008), (self.shop2.ip, 15008)],
        )

    # ---- life ----

    def start(self, gateways=1):
        self.link()
        self.write()
        self.away.start()
        self.home.start()
        for n in range(gateways):
            self.gateways.append(self.gateway(n).start())
        return self

    def stop(self):
        for g in self.gateways:
            g.stop()
        errors = []
        for mesh in (self.home, self.away):
            try:
                mesh.stop()
            except Exception as e:  # the other one is still to be taken down
                errors.append(e)
        if errors:
            raise errors[0]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            for node in (self.home.nodes[0], self.away.nodes[0]):
                for p in (node.agent, node.proxy):
                    if p:
                        print(f"--- {p.log}\n{p.text()[-3000:]}")
        self.stop()
