# SPDX-License-Identifier: Apache-2.0
"""The judge of node proxies (tests/conformance): what it says of bruma-proxy, case by case, and of a stock ztunnel where there is
one; and that it does say what does not hold."""

import json
import os
import subprocess
import xml.etree.ElementTree as ET

import pytest

import conformance.cases  # noqa: F401, for it registers them
from conformance import registry
from support import network
from support.programs import ROOT, program
from support.proxies.stock_world import ZTUNNEL

JUDGE = f"{ROOT}/tests/conformance/judge.py"
DEVIATIONS = f"{ROOT}/tests/conformance/deviations/ztunnel.txt"
# As on a machine without Bruma's agent.
BRUMA = ["--proxy", program("bruma-proxy"), "--env", "BRUMA_RUN_DIR=/nonexistent"]


def judge(*arguments):
    return subprocess.run([JUDGE, *arguments], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "report.json"
    r = judge(*BRUMA, "--json", str(path))
    assert path.exists(), r.stdout + r.stderr
    with open(path) as f:
        report = json.load(f)
    assert report["good"] == (r.returncode == 0), r.stdout
    return {c["name"]: c for c in report["cases"]}


@pytest.mark.parametrize("name", [c.name for c in registry.CASES])
def test_it_holds(verdicts, name):
    assert verdicts[name]["verdict"] == "passed", verdicts[name]["seen"]


@pytest.mark.skipif(not ZTUNNEL, reason="BRUMA_ZTUNNEL names no stock ztunnel")
def test_a_stock_ztunnel():
    """Nothing but what is listed."""
    r = judge("--proxy", ZTUNNEL, "--deviations", DEVIATIONS)
    assert r.returncode == 0, r.stdout


def test_what_does_not_hold_is_told(tmp_path):
    """Without baggage in its answers a proxy is not as the page says: told in all forms, unless it is known. What is known and
    does hold is told too."""
    xml, known = tmp_path / "report.xml", tmp_path / "known.txt"
    without = [*BRUMA, "--env", "ENABLE_RESPONSE_BAGGAGE=false", "--only", "H-30", "--junitxml", str(xml)]
    r = judge(*without)
    assert r.returncode == 1 and "WRONG    H-30" in r.stdout, r.stdout
    assert "k8s.cluster.name=Kubernetes is not in ''" in r.stdout
    cases = ET.parse(xml).getroot().findall("testcase")
    assert [c.get("name") for c in cases if c.find("failure") is not None] == [
        "H-30/baggage_of_the_destination"
    ]
    known.write_text("H-30/baggage_of_the_destination: it is switched off\n")
    r = judge(*without, "--deviations", str(known))
    assert r.returncode == 0 and "known: it is switched off" in r.stdout, r.stdout
    known.write_text("H-20/an_address_of_ipv4: for this test\n")
    r = judge(*BRUMA, "--only", "H-20", "--deviations", str(known))
    assert r.returncode == 1 and "UNLISTED H-20" in r.stdout, r.stdout


def test_a_program_that_serves_nobody():
    r = judge("--proxy", "/bin/false")
    assert r.returncode == 3 and "cannot be judged" in r.stderr and "has ended with 1" in r.stderr, r.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--proxy", "x", "--only", "H-9999"],
        ["--proxy", "x", "--env", "novalue"],
        ["--proxy", "x", "--deviations", "/nonexistent"],
        ["--proxy", "x", "--deviations", __file__],
    ],
    ids=["no proxy", "no such case", "no value", "no such file", "no list"],
)
def test_wrong_arguments(arguments):
    r = judge(*arguments)
    assert r.returncode == 2 and "error:" in r.stderr, r.stderr


def test_an_interrupted_judge_leaves_nothing():
    p = subprocess.Popen([JUDGE, *BRUMA], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().startswith("ok")
    assert network.names(f"bruma-{p.pid}-")
    p.terminate()
    p.communicate(timeout=30)
    assert p.returncode != 0 and not network.names(f"bruma-{p.pid}-")
    assert not [n for n in os.listdir("/tmp") if n.startswith(f"bruma-{p.pid}-")]


def test_the_list():
    r = judge("--list", "--only", "Z-12")
    assert r.returncode == 0 and len(r.stdout.splitlines()) == 3, r.stdout
