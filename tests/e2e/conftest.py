# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests. They need root; everything they make is removed at the end, failed or
not.

    build       the meson build directory, from BRUMA_BUILD
    work          a Workspace of this test: unique names, a directory, namespaces and processes that are cleaned up
    node          a node with an agent alone (support/nodes/agent_node.py)
    world, small  a node whose agent follows an API server, real if there is one, or the small one of the tests
    new_site      makes nodes whose proxy listens to a control plane of the tests
    mesh_of_two   two nodes with web, near, shop and outside, for a whole file; nothing goes past the proxy

Other meshes are made where they are used: `with Mesh() as mesh`, support/nodes/mesh.py.

Names contain this process's id, so that several runs do not meet.
"""

import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support.kube.server import RealServer
from support.kube.small import SmallServer
from support.kube.world import REAL, World
from support.nodes.agent_node import AgentNode
from support.nodes.direct import LONG
from support.nodes.mesh import LIVE, Mesh, leaf
from support.nodes.peer_place import place_of_a_peer
from support.nodes.pod_programs import ECHO, SERVER_FIRST, SINK
from support.proxies import hbone, waypoint
from support.workspace import Workspace
from support.xds.control_plane import Client, ControlPlane, load_messages
from support.xds.site import Site
from support.xds.small_mesh import MESH


def pytest_configure(config):
    if os.geteuid() != 0:
        pytest.exit("the end-to-end tests need root: they make network namespaces and load BPF programs", 3)
    if not os.path.isfile(os.path.join(os.environ.get("BRUMA_BUILD", ""), "build.ninja")):
        pytest.exit("BRUMA_BUILD must name a meson build directory; `tests/run.sh e2e` sets it", 3)


# The files that take longest, which begin first: none of them is left when the others have ended.
LONGEST = [
    "test_wall_clock",
    "test_judge",
    "test_guard",
    "test_xds_scale",
    "test_stock_proxy_life",
    "test_ca_client",
    "test_waypoint",
    "test_kube",
    "test_kube_follow",
    "test_install",
    "test_short",
    "test_hostnames",
    "test_direct_failures",
    "test_otlp_collector",
    "test_otlp",
    "test_spinning",
    "test_breakage",
    "test_probes",
    "test_traffic_life",
    "test_zds_protocol",
    "test_kube_pod_ends",
    "test_kube_outbound_policy",
    "test_agent_proxies",
    "test_stock_proxy",
    "test_memory",
    "test_dns_forwarded",
    "test_traffic",
    "test_kube_exclusions",
    "test_hostile_peer",
    "test_networks_hostile",
    "test_hostile_devices",
    "test_chaos",
]


def pytest_collection_modifyitems(items):
    gone = [name for name in LONGEST if not os.path.exists(f"{os.path.dirname(__file__)}/{name}.py")]
    if gone:
        raise pytest.UsageError(f"there is no {', '.join(gone)} any more")
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        # A mesh that ended with the test has printed it already.
        report.sections += [(f"logs of {mesh.prefix}", mesh.last_words()) for mesh in LIVE]


@pytest.fixture(scope="session")
def build():
    return os.path.abspath(os.environ["BRUMA_BUILD"])


@pytest.fixture
def work(request, build):
    w = Workspace(build)
    yield w
    errors = w.close()
    if request.session.testsfailed:
        print(f"logs are kept in {w.directory}", file=sys.stderr)
    else:
        shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


@pytest.fixture
def node(work):
    n = AgentNode(work)
    n.start()
    return n


@pytest.fixture
def small(work):
    return World(work, SmallServer)


@pytest.fixture(params=["small", "real"] if REAL else ["small"])
def world(request, work):
    if request.param == "real":
        return World(work, lambda netns, directory: RealServer(REAL, netns, directory))
    return World(work, SmallServer)


@pytest.fixture
def new_site():
    """Makes a site with these settings of its proxy."""
    sites = []

    def make(**settings):
        site = Site()
        sites.append(site)
        site.mesh.proxy_env.update(settings)
        site.start()
        return site

    yield make
    for site in sites:
        site.plane.stop()
        site.mesh.stop()


@pytest.fixture(scope="module")
def mesh_of_two():
    with Mesh(nodes=2, workers=2, agent_options=LONG) as m:
        m.web, m.shop, m.near = m.pod("web", node=0), m.pod("shop", node=1), m.pod("near", node=0)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.shop, m.near, m.outside):
            pod.server(ECHO, "8080")
            pod.server(SINK, "9000")
        m.shop.server(SERVER_FIRST, "2525")
        yield m


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    return load_messages(str(tmp_path_factory.mktemp("messages")))


@pytest.fixture
def plane(work, build):
    p = ControlPlane(build, work.directory, MESH)
    yield p
    assert p.stop() == 0, p.log


@pytest.fixture
def client(plane, messages):
    c = Client(plane, messages)
    yield c
    c.close()


@pytest.fixture
def stream(client):
    s = client.stream()
    yield s
    s.close()


@pytest.fixture(scope="module")
def site():
    s = Site()
    with s.mesh:
        s.start()
        yield s
        s.plane.stop()


@pytest.fixture(scope="module")
def program(build):
    """Envoy's."""
    path, why = waypoint.program(build)
    if not path:
        pytest.skip(why)
    return path


@pytest.fixture(scope="module")
def impatient():
    """Here readers sleep, and that is not waited for as long as by default."""
    with Mesh(nodes=2, agent_options=LONG, proxy_env={"BRUMA_LINGER_TIMEOUT": "1s"}) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.outside = m.pod("outside", node=0, namespace="outside")
        m.outside.outside = True
        m.start()
        m.certificate = leaf(m, m.web.identity)
        m.ports = iter(range(7100, 7200))
        yield m


@pytest.fixture
def peer(mesh):
    """An HBONE server there."""
    with place_of_a_peer(mesh) as (pod, listener, cert):
        server = hbone.Server(listener, *cert)
        server.pod = pod
        yield server
        server.stop()
