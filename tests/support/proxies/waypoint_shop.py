# SPDX-License-Identifier: Apache-2.0
"""A service that has a waypoint, and requests to it."""

import json
import tempfile

from support.nodes.mesh import TRUST_DOMAIN
from support.nodes.pod_programs import HTTP_REQUESTS
from support.proxies import waypoint as support
from support.system import wait_for

WAYPOINT = "waypoint.demo.svc.cluster.local"
SHOP = "shop.demo.svc.cluster.local"


VIP4, VIP6, WAYPOINT_VIP = "10.96.0.20", "fd00:96::20", "10.96.0.99"


POST = """
import hashlib, http.client, os, sys
body = os.urandom(4 << 20)
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=60)
connection.request("POST", "/", body)
print("same" if connection.getresponse().read().decode() == hashlib.sha256(body).hexdigest() else "DIFFERENT")
"""


def requests(pod, host, count=1, method="GET", port=80, **headers):
    return json.loads(pod.python(HTTP_REQUESTS, host, port, count, method, json.dumps(headers), timeout=120))


def one(pod, host, method="GET", port=80, **headers):
    return requests(pod, host, 1, method, port, **headers)[0]


def set_services(m, **shop):
    """The service that has the waypoint, with these fields; the waypoint's own service."""
    m.services[:] = [
        {
            "name": "shop",
            "namespace": "demo",
            "hostname": SHOP,
            "vips": [f"/{VIP4}", f"/{VIP6}"],
            "ports": {80: 8080},
            **shop,
        },
        {
            "name": "waypoint",
            "namespace": "demo",
            "hostname": WAYPOINT,
            "vips": [f"/{WAYPOINT_VIP}"],
            "ports": {15008: 15008},
        },
    ]


def set_waypoints(m, *pods, **fields):
    """The waypoints' workloads: in the mesh's file, and not in the mesh."""
    m.extra[:] = [
        {
            "name": p.name,
            "namespace": "demo",
            "serviceAccount": p.account,
            "workloadIps": [p.ip, p.ip6],
            "node": p.node.name,
            "labels": {"istio.io/dataplane-mode": "none"},
            "services": {f"demo/{WAYPOINT}": {15008: 15008}},
            **fields,
        }
        for p in pods
    ]


def publish(m, here=None):
    """Writes the mesh file, and waits until the client's proxy shows what it now says of the service, or
    here(dump) is true."""
    m.write()
    service = m.services[0]

    def same(dump):
        found = next((s for s in dump["services"] if s["hostname"] == SHOP), {})
        return all(
            json.dumps(found.get(k)) == json.dumps(service.get(k)) for k in ("waypoint", "weightedWaypoints")
        )

    wait_for(lambda: (here or same)(m.nodes[0].config_dump()), "the proxy to know of the change")


DESTINATION = {"destination": f"demo/{WAYPOINT}", "hboneMtlsPort": 15008}


def named(destination):
    return {"destination": destination, "hboneMtlsPort": 15008}


def only_waypoint():
    return {
        "name": "only-waypoint",
        "namespace": "demo",
        "scope": "WorkloadSelector",
        "action": "Allow",
        "dryRun": False,
        "rules": [[[{"principals": [{"Exact": f"{TRUST_DOMAIN}/ns/demo/sa/waypoint"}]}]]],
    }


def envoy(m, pod, program, account="waypoint", kind=support.Waypoint, sample=support.SAMPLE):
    directory = tempfile.mkdtemp(prefix=pod.name, dir=m.dir)
    values = {"vip4": VIP4, "vip6": VIP6, "v1": m.v1.ip, "v2": m.v2.ip}
    if sample == support.SAMPLE:
        control, identities = f"{m.nodes[0].run_dir}/control", f"spiffe://{TRUST_DOMAIN}/ns/demo/"
        support.certificate(directory, control, m.ca_key, identities, account)
    return kind(program, directory, pod.netns, pod.node.cgroup, sample=sample, **values)
