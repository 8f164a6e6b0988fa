# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in a real cluster. There is one cluster for all of them; each scene leaves it as it
has found it.

    cluster     a Kubernetes of two nodes (cluster.py)
    mesh        Bruma in it, installed by helm, with a control plane (release.py)

BRUMA_BUILD names the build directory, BRUMA_PEERS_READY the programs of peers.sh; tests/run.sh sets both.
BRUMA_KEEP=1 leaves the files of the cluster, whatever happens.
"""

import os
import sys
import time

import pytest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in (f"{TESTS}/lab", f"{TESTS}/e2e", TESTS, f"{TESTS}/cluster"):
    sys.path.insert(0, folder)

import layout
from churn import Churn
from cluster import Cluster
from istiod import Istiod
from release import Release
from stand_in import StandIn

# In this order: an earlier scene leaves what a later one needs. test_uninstall takes Bruma away; test_stock
# installs what it wants.
SCENES = [
    "test_install",
    "test_labels",
    "test_names",
    "test_brumactl",
    "test_istioctl",
    "test_scenarios",
    "test_probes",
    "test_kernel",
    "test_replay",
    "test_replaced",
    "test_hand_over",
    "test_rolling",
    "test_churn",
    "test_cost",
    "test_away",
    "test_power",
    "test_guard",
    "test_uninstall",
    "test_stock",
]


def pytest_configure(config):
    if os.geteuid() != 0:
        pytest.exit("the cluster needs root: it makes namespaces and loads BPF programs", 3)
    if not layout.POSSIBLE:
        pytest.exit(f"BRUMA_PLATFORM: nodes of {layout.PLATFORM} cannot be made here", 3)
    for name, inside in (("BRUMA_BUILD", "build.ninja"), ("BRUMA_PEERS_READY", "complete")):
        if not os.path.exists(os.path.join(os.environ.get(name, ""), inside)):
            pytest.exit(
                f"{name} must name a directory with {inside} in it; `tests/run.sh cluster` sets it", 3
            )


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SCENES.index(item.module.__name__))


@pytest.fixture(scope="session")
def build():
    return os.path.abspath(os.environ["BRUMA_BUILD"])


@pytest.fixture(scope="session")
def report():
    """Figures for people; they are printed at the end, and nothing depends on them."""
    lines = []
    yield lines.append
    path = os.path.join(os.environ["BRUMA_BUILD"], "cluster-report.txt")
    with open(path, "w") as f:
        f.write("".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="session")
def cluster(request, build, report):
    began = time.monotonic()
    c = Cluster(build, os.path.abspath(os.environ["BRUMA_PEERS_READY"]))
    try:
        c.start()
        report(f"cluster of two nodes up in {time.monotonic() - began:.1f} s")
        yield c
    finally:
        trouble = c.close()
        if request.session.testsfailed or os.environ.get("BRUMA_KEEP"):
            print(f"logs are kept in {c.directory}", file=sys.stderr)
        else:
            c.remove_files()
    assert not trouble, trouble


@pytest.fixture(scope="session")
def plane(cluster, report):
    p = (Istiod if os.environ.get("BRUMA_ISTIOD") else StandIn)(cluster)
    report(f"control plane: {p.name}")
    yield p
    p.close()


@pytest.fixture(scope="session")
def mesh(cluster, plane, report):
    release = Release(cluster)
    release.plane = plane
    release.load("1", "2")
    began = time.monotonic()
    release.install(global__tag="1")
    release.wait_rolled_out()
    report(f"helm install to both DaemonSets ready: {time.monotonic() - began:.1f} s")
    return release


@pytest.fixture(scope="session")
def churn(cluster, mesh):
    """Begins with the first scene that asks for it and goes on beside the next ones, until test_churn ends
    it."""
    return Churn(cluster, mesh)
