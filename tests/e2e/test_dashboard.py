# SPDX-License-Identifier: Apache-2.0
"""`brumactl dashboard` as a server: who gets an answer, and that answers are those of the commands.
test_dashboard_page.py has what a browser makes of it."""

import concurrent.futures
import json
import os
import pathlib
import pty
import shutil
import socket
import subprocess
import tempfile

import pytest

from support.dashboard import Dashboard
from support.kube.forwarder import Forwarder
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.programs import program
from support.system import wait_for


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1, agent_options=("--ready-port", "8000")) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


@pytest.fixture(scope="module")
def dashboard(mesh):
    with Dashboard(mesh.dir, "--run-dir", mesh.nodes[0].run_dir) as d:
        yield d


# ---- who gets an answer ----


def test_the_page_and_its_files(dashboard):
    status, headers, body = dashboard.get("")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and b"<script" in body
    for name in ("main.js", "page.css"):
        status, headers, body = dashboard.get(name)
        assert status == 200 and body and headers["X-Content-Type-Options"] == "nosniff"
    assert dashboard.get("none.js")[0] == 404 and dashboard.get("../main.js")[0] == 404


def test_nothing_may_come_from_elsewhere(dashboard):
    for path in ("", "main.js", "api/about", "none"):
        headers = dashboard.get(path)[1]
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert not [name for name in headers if name.lower().startswith("access-control")]
    body = b"".join(dashboard.get(name)[2] for name in ("", "main.js", "page.css"))
    assert b"http://" not in body.replace(b"http://www.w3.org", b"") and b"https://" not in body


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: t[:-1],
        lambda t: t + "0",
        lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"),
        lambda t: ("0" if t[0] != "0" else "1") + t[1:],
        lambda t: t.upper() + "/../" + t[:5],
        lambda t: "%00" * 64,
    ],
)
def test_without_the_token_there_is_nothing(dashboard, change):
    token = change(dashboard.token)
    for path in ("/", "/api/pods", "/main.js"):
        status, headers, body = dashboard.raw(f"/{token}{path}")
        assert status == 403 and b"token" in body and dashboard.token.encode() not in body
        assert "Content-Security-Policy" in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "10.0.0.1"]
)
def test_another_host_name_is_refused(dashboard, host):
    assert dashboard.get("api/about", Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:9"])
def test_names_of_this_machine(dashboard, host):
    assert dashboard.get("api/about", Host=host)[0] == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_another_page_gets_nothing_but_may_lead_here(dashboard, headers):
    for path in ("api/pods", "main.js"):
        assert dashboard.get(path, **headers)[0] == 403
    assert dashboard.get("", **headers)[0] == 200


def test_no_host_at_all(dashboard):
    with socket.create_connection(("127.0.0.1", dashboard.port), timeout=20) as s:
        s.sendall(f"GET /{dashboard.token}/api/about HTTP/1.0\r\n\r\n".encode())
        assert b" 421 " in s.recv(4096)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_only_get(dashboard, method):
    status, headers, _ = dashboard.get("api/pods", method)
    assert status == 405 and headers["Allow"] == "GET"


def test_it_listens_on_loopback_alone(dashboard):
    text = subprocess.run(
        ["ss", "-Hltn", f"sport = :{dashboard.port}"], capture_output=True, text=True
    ).stdout
    assert [line.split()[3] for line in text.splitlines()] == [f"127.0.0.1:{dashboard.port}"]


def test_each_has_a_token_of_its_own(mesh, dashboard, tmp_path):
    with Dashboard(tmp_path, "--run-dir", mesh.nodes[0].run_dir) as other:
        assert other.token != dashboard.token and other.port != dashboard.port
        assert other.raw(f"/{dashboard.token}/api/about")[0] == 403
    with pytest.raises(ConnectionError):
        other.get("api/about")


# ---- answers ----


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("status", ["status"]),
        ("pods", ["pods"]),
        ("identities", ["identities"]),
        ("policy", ["policy"]),
        ("connections", ["connections"]),
    ],
)
def test_answers_are_those_of_the_commands(mesh, dashboard, name, argv):
    reply = dashboard.api(name)
    said = json.loads(mesh.nodes[0].ctl(*argv, "-o", "json").stdout)
    assert reply["code"] == 0 and reply["said"] == ""

    def shape(value):
        return sorted(value) if isinstance(value, dict) else sorted(str(sorted(one)) for one in value)

    assert shape(reply["answer"]) == shape(said)


def test_explain(mesh, dashboard):
    reply = dashboard.api("explain", **{"from": "demo/web", "to": f"{mesh.shop.ip}:8080"})
    said = mesh.nodes[0].ctl("explain", "demo/web", f"{mesh.shop.ip}:8080", "-o", "json").stdout
    assert reply == {"code": 0, "said": "", "answer": json.loads(said)}
    reply = dashboard.api("explain", **{"from": "policy_denied"})
    assert "authorization policy" in json.dumps(reply["answer"])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"from": "--help"}, "neither NAMESPACE/POD nor a reason"),
        ({"from": "demo/web", "to": "-o"}, ""),
        ({"from": "demo/none"}, "demo/none"),
        ({"from": "demo/web", "to": "1.2.3.4"}, "neither IP:PORT nor a host name"),
        ({"from": "demo/<img src=x onerror=alert(1)>"}, ""),
    ],
)
def test_odd_questions_get_words(dashboard, query, words):
    reply = dashboard.api("explain", **query)
    assert reply["answer"] is not None or reply["code"] != 0
    assert words in json.dumps(reply)


@pytest.mark.parametrize(
    "path",
    [
        "api/explain",
        "api/explain?from=",
        "api/explain?from=" + "x" * 700,
        "api/explain?to=a",
        "api/flows?after=x",
        "api/flows?after=-1",
        "api/flows?after=" + "9" * 30,
    ],
)
def test_questions_that_are_none(dashboard, path):
    assert dashboard.get(path)[0] == 400


def test_flows_as_they_happen(mesh, dashboard):
    def one():
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
        lines.extend(dashboard.api("flows", after=at)["lines"])
        return [line for line in lines if line.get("dst.hbone_addr") == f"{mesh.shop.ip}:8080"]

    lines, at = [], 0
    assert dashboard.api("flows")["runs"]
    found = wait_for(one, "a line of a connection")
    assert found[0]["src.workload"] == "web" and found[0]["dst.workload"] == "shop"
    reply = dashboard.api("flows", after=0)
    assert reply["lost"] == 0
    again = dashboard.api("flows", after=reply["next"])
    assert again["next"] >= reply["next"] and len(again["lines"]) == again["next"] - reply["next"]


def test_what_the_proxies_have_counted(mesh, dashboard):
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
    lines = wait_for(
        lambda: [line for line in dashboard.api("traffic")["answer"] if 'source_workload="web"' in line],
        "a series",
    )
    assert any(line.startswith("istio_tcp_connections_opened_total{") for line in lines)
    assert any(line.startswith("process_cpu_seconds_total") for line in dashboard.api("traffic")["answer"])


# ---- bounds and failures ----


def test_more_questions_than_are_taken_at_a_time(mesh, dashboard):
    """Others wait for an agent that is stopped, and a ninth is refused."""
    agent = mesh.nodes[0].agent
    os.kill(agent.pid, 19)
    try:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda _: dashboard.get("api/pods"), range(12)))
    finally:
        os.kill(agent.pid, 18)
    statuses = [status for status, _, _ in replies]
    assert statuses.count(503) == 4 and statuses.count(200) == 8, statuses
    silent = [json.loads(body) for status, _, body in replies if status == 200]
    assert all(reply["code"] == 3 and "no answer of the agent" in reply["said"] for reply in silent)
    assert dashboard.api("pods")["code"] == 0


def test_a_client_that_does_not_wait(mesh, dashboard):
    before = len(children(dashboard))
    for _ in range(8):
        s = socket.create_connection(("127.0.0.1", dashboard.port), timeout=20)
        s.sendall(f"GET /{dashboard.token}/api/pods HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        s.close()
    wait_for(lambda: dashboard.get("api/pods")[0] == 200, "the commands to end")
    wait_for(lambda: len(children(dashboard)) <= before, "the processes to be gone")


def children(dashboard):
    with open(f"/proc/{dashboard.process.pid}/task/{dashboard.process.pid}/children") as f:
        return f.read().split()


def test_nobody_to_ask(tmp_path):
    with Dashboard(tmp_path, "--run-dir", str(tmp_path / "none")) as d:
        for name in ("status", "pods", "traffic"):
            reply = d.api(name)
            assert reply["code"] == 3 and reply["answer"] is None and "no answer" in reply["said"]
        wait_for(lambda: "no answer" in d.api("flows")["said"], "the complaint")


def test_a_command_ends_with_the_dashboard(mesh, tmp_path):
    with Dashboard(tmp_path, "--run-dir", mesh.nodes[0].run_dir) as d:
        assert d.api("flows")["runs"]
        (child,) = children(d)
        d.process.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{child}"), "the command to end")


def test_bad_usage():
    for argv in (["--port", "0"], ["--port", "65536"], ["--port", "x"], ["extra"]):
        r = subprocess.run(
            [program("brumactl"), "dashboard", *argv], capture_output=True, text=True, timeout=20
        )
        assert r.returncode == 2, r


def test_a_port_that_is_taken(dashboard):
    r = subprocess.run(
        [program("brumactl"), "dashboard", "--port", str(dashboard.port)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert r.returncode == 1 and "Address already in use" in r.stderr and not r.stdout


# ---- all nodes ----


def test_all_nodes_and_one_that_does_not_answer(mesh, tmp_path):
    with (
        Forwarder(tmp_path / "api", mesh.nodes) as api,
        Dashboard(tmp_path, "--kubeconfig", api.kubeconfig()) as d,
    ):
        assert d.api("about")["fleet"] is True
        pods = d.api("pods")["answer"]
        assert [one["node"] for one in pods] == ["node1"] and len(pods[0]["pods"]) == 2
        assert d.api("traffic")["answer"][0]["traffic"]
        api.faults["agent-node1"] = "refuse"
        reply = d.api("pods")
        assert "cannot create resource" in reply["answer"][0]["error"] and reply["code"] == 3
        del api.faults["agent-node1"]
        assert d.api("pods")["code"] == 0
        # Its pods are looked for anew each time.
        api.hidden.add("agent-node1")
        assert "there is no pod of the agent" in d.api("pods")["answer"][0]["error"]


# ---- the browser ----


@pytest.fixture
def others_directory():
    """Of nobody."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bruma-dashboard-test-"))
    os.chown(path, 65534, 65534)
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_the_browser_gets_the_address_by_a_file_of_its_user(others_directory):
    tmp_path = others_directory
    opener, told = tmp_path / "xdg-open", tmp_path / "told"
    opener.write_text(
        f'#!/bin/sh\n{{ stat -c %a "$1"; cat "$1"; }} >"{told}.new"\nmv "{told}.new" "{told}"\n'
    )
    opener.chmod(0o755)
    ours, theirs = pty.openpty()
    p = subprocess.Popen(
        [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            program("brumactl"),
            "--run-dir",
            "/none",
            "dashboard",
        ],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DISPLAY": ":99", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    try:
        url = os.read(ours, 4096).decode().strip()
        wait_for(told.exists, "the browser to be opened")
        mode, page = told.read_text().split("\n", 1)
        assert mode == "600" and url in page
        with open(f"/proc/{p.pid}/cmdline") as f:
            assert url not in f.read()
    finally:
        p.terminate()
        p.wait(20)
        os.close(ours)
        os.close(theirs)
    assert p.returncode == 0
    assert not list(tmp_path.glob("bruma-dashboard-*")), "the file is removed at the end"
