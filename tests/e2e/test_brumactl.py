# SPDX-License-Identifier: Apache-2.0
"""brumactl against a real mesh, and where there is nobody to ask."""

import json
import os
import pathlib
import re
import subprocess

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.programs import program
from support.system import Failed, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def ctl(*argv):
    return subprocess.run([program("brumactl"), *argv], capture_output=True, text=True, timeout=30)


def test_status_names_agent_proxy_and_mesh(mesh):
    text = mesh.nodes[0].ctl("status").stdout
    assert (
        f"pid {mesh.nodes[0].agent.pid}" in text
        and f"pid {mesh.nodes[0].proxy.pid}" in text
        and "2 workloads" in text
    )
    status = json.loads(mesh.nodes[0].ctl("status", "-o", "json").stdout)
    assert status["pods"]["enrolled"] == 2 and status["proxyConnected"] is True


def test_pods_shows_who_is_captured(mesh):
    rows = mesh.nodes[0].ctl("pods").stdout.splitlines()
    assert rows[0].split()[:3] == ["NAMESPACE", "POD", "STATE"]
    web = next(r for r in rows if " web " in r)
    assert "enrolled" in web and mesh.web.identity in web and mesh.web.ip in web and " yes " in web
    pods = json.loads(mesh.nodes[0].ctl("pods", "-o", "json").stdout)
    assert {p["name"] for p in pods} == {"web", "shop"}


def test_connections_shows_both_ends(mesh):
    code = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"x"); s.recv(1)
print("OPEN", flush=True)
time.sleep(60)
"""
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", code, mesh.shop.ip)
    wait_for(lambda: "OPEN" in p.text(), "the connection")
    text = mesh.nodes[0].ctl("connections").stdout
    out = [r for r in text.splitlines() if "outbound" in r and mesh.shop.ip in r]
    inn = [r for r in text.splitlines() if "inbound" in r and mesh.web.ip in r]
    assert out and mesh.shop.identity in out[0] and "HBONE" in out[0], text
    assert inn and mesh.web.identity in inn[0], text
    assert isinstance(json.loads(mesh.nodes[0].ctl("connections", "-o", "json").stdout), dict)
    p.kill()
    wait_for(lambda: "No connection is open." in mesh.nodes[0].ctl("connections").stdout, "no connection")


def test_policy_and_identities(mesh):
    assert "everything is allowed" in mesh.nodes[0].ctl("policy").stdout
    mesh.policies.append(
        {
            "name": "p",
            "namespace": "demo",
            "scope": "Namespace",
            "action": "Allow",
            "dryRun": False,
            "rules": [[[{"namespaces": [{"Exact": "demo"}]}]]],
        }
    )
    mesh.write()
    wait_for(lambda: "demo/p  Allow, scope Namespace" in mesh.nodes[0].ctl("policy").stdout, "the policy")
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
    text = mesh.nodes[0].ctl("identities").stdout
    assert mesh.web.identity in text and "Available" in text


def test_explain_pod_connection_and_reason(mesh):
    assert "ok" in mesh.nodes[0].ctl("explain", "demo/web").stdout
    text = mesh.nodes[0].ctl("explain", "demo/web", f"{mesh.shop.ip}:8080").stdout
    assert "through HBONE" in text and mesh.shop.identity in text, text
    assert "outside the mesh" in mesh.nodes[0].ctl("explain", "demo/web", "192.0.2.1:80").stdout
    for own in (f"{mesh.web.ip}:8080", f"[{mesh.web.ip6}]:8080", "127.0.0.1:80", "[::1]:80"):
        assert "not captured" in mesh.nodes[0].ctl("explain", "demo/web", own).stdout
    r = mesh.nodes[0].ctl("explain", "demo/nobody", "192.0.2.1:80", check=False)
    assert r.returncode == 1 and "source_unknown" in r.stdout
    assert "authorization policy" in ctl("explain", "policy_denied").stdout
    assert mesh.nodes[0].ctl("explain", "demo/nobody", check=False).returncode == 1


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_explain_says_what_the_policies_will_say(mesh, family):
    """Before and after a policy, and as the proxy then does."""
    address = getattr(mesh.shop, family)
    to, node = f"[{address}]:8080" if family == "ip6" else f"{address}:8080", mesh.nodes[0]

    def verdict(target=to):
        r = node.ctl("explain", "demo/web", target, "-o", "json", check=False)
        line = next(c for c in json.loads(r.stdout) if c["check"] == "verdict")
        assert r.returncode == (0 if line["ok"] else 1)
        return line

    kept = list(mesh.policies)
    assert verdict()["ok"] and mesh.web.python(ONE_SHOT, address, 8080, "x") == "x"
    mesh.deny(mesh.web.rule(destinationPorts=[8080]))
    mesh.write()
    try:
        wait_for(lambda: not verdict()["ok"], "the policy")
        assert verdict()["reason"] == "policy_denied" and "demo/no-web" in verdict()["detail"]
        assert verdict(to.replace(":8080", ":8081"))["ok"], "another port is another question"
        with pytest.raises(Failed):
            mesh.web.python(ONE_SHOT, address, 8080, "x")
    finally:
        mesh.policies[:] = kept
        mesh.write()
    wait_for(lambda: verdict()["ok"], "the policy to be gone")


def test_explain_connection_to_services(mesh):
    vip = "10.255.9.1"
    mesh.services.append(
        {
            "name": "empty",
            "namespace": "demo",
            "hostname": "empty.demo.svc.cluster.local",
            "vips": ["/" + vip],
            "ports": {80: 8080},
        }
    )
    mesh.write()
    wait_for(
        lambda: "empty.demo" in mesh.nodes[0].ctl("explain", "demo/web", f"{vip}:80", check=False).stdout,
        "the service",
    )
    for port, words in ((80, "no endpoint"), (81, "no port 81")):
        r = mesh.nodes[0].ctl("explain", "demo/web", f"{vip}:{port}", "-o", "json", check=False)
        assert r.returncode == 1
        assert [c["reason"] for c in json.loads(r.stdout) if words in c["detail"]] == [
            "no_healthy_upstream"
        ], r.stdout


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "pods",
        "connections",
        "policy",
        "identities",
        "doctor",
        "reasons",
        "explain demo/web",
        "explain demo/web 192.0.2.1:80",
        "explain demo/nobody",
        "explain policy_denied",
    ],
)
def test_json_of_every_command(mesh, command):
    r = mesh.nodes[0].ctl("-o", "json", *command.split(), check=False)
    assert isinstance(json.loads(r.stdout), (dict, list)), r.stdout
    assert r.returncode == (1 if "nobody" in command else 0) and not r.stderr
    text = mesh.nodes[0].ctl(*command.split(), check=False)
    assert text.stdout and text.returncode == r.returncode
    with pytest.raises(json.JSONDecodeError):
        json.loads(text.stdout)


def test_doctor_finds_nothing_wrong(mesh):
    r = mesh.nodes[0].ctl("doctor", check=False)
    assert r.returncode == 0, r.stdout
    assert all(c["ok"] for c in json.loads(mesh.nodes[0].ctl("doctor", "-o", "json").stdout))


@pytest.mark.parametrize("command", ["status", "pods", "doctor", "connections", "policy", "identities"])
def test_nobody_to_ask(command, tmp_path):
    r = ctl("--run-dir", str(tmp_path), command)
    assert r.returncode == 3 and "no answer" in r.stderr and str(tmp_path) in r.stderr and not r.stdout
    assert "localhost" not in r.stderr, "that is curl's word, not ours"


@pytest.mark.parametrize("command", ["status", "connections"])
def test_an_ordinary_user_is_told_why(mesh, command):
    os.chmod(mesh.dir, 0o755)
    r = subprocess.run(
        [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            program("brumactl"),
            "--run-dir",
            mesh.nodes[0].run_dir,
            command,
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert r.returncode == 3 and "Permission denied" in r.stderr and not r.stdout, r.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        [],
        ["-o", "xml", "pods"],
        ["explain"],
        ["explain", "what"],
        ["pods", "extra"],
        ["--what"],
        ["reasons", "extra"],
        ["pods", "--markdown"],
        ["pods", "--count", "5"],
        ["flows", "-n", "shop"],
        ["status", "--refused"],
        ["identities", "--namespace", "shop"],
        ["doctor", "--before"],
        ["explain", "a/b", "1.2.3.4"],
        ["explain", "a/b", "x:1", "y"],
        ["-o"],
        ["--run-dir"],
    ],
)
def test_bad_usage(argv):
    assert ctl(*argv).returncode == 2


def test_the_page_of_reasons_is_current():
    assert ctl("reasons", "--markdown").stdout == (ROOT / "docs" / "reasons.md").read_text()


def test_every_reason_can_be_explained():
    for line in ctl("reasons").stdout.splitlines()[1:]:
        assert ctl("explain", line.split()[0]).returncode == 0, line


# ---- completion ----


def commands():
    return re.findall(r"^  ([a-z]+)(?: |$)", ctl("--help").stdout, re.M)


def completed(mesh, *words):
    """What bash offers for the last word."""
    script = (
        'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _brumactl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = {
        "PATH": f"{os.path.dirname(program('brumactl'))}:/usr/bin:/bin",
        "BRUMA_RUN_DIR": mesh.nodes[0].run_dir,
    }
    r = subprocess.run(
        ["bash", "-c", script, str(ROOT / "ctl/completion/brumactl.bash"), "brumactl", *words],
        capture_output=True,
        text=True,
        timeout=30,
        env=env,
    )
    assert not r.stderr and not r.returncode, r.stderr
    return set(r.stdout.split())


def test_bash_completes_commands_options_and_arguments(mesh):
    assert set(commands()) | {"--run-dir", "-o"} <= completed(mesh, "")
    assert completed(mesh, "po") == {"pods", "policy"}
    assert completed(mesh, "-o", "j") == {"json"}
    assert completed(mesh, "pods", "-o", "") == {"json", "table"}
    assert completed(mesh, "explain", "demo/w") == {"demo/web"}
    assert completed(mesh, "explain", "policy_d") == {"policy_denied"}
    assert completed(mesh, "reasons", "--m") == {"--markdown"}
    assert completed(mesh, "--run-dir", "/usr/li") >= {"/usr/lib"}


LONG_OPTIONS = re.findall(r'\{"([a-z-]+)", (?:no|required)_argument', (ROOT / "ctl/main.c").read_text())


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("ctl/completion/brumactl.bash", "--{}"),
        ("ctl/completion/_brumactl", "--{}"),
        ("ctl/completion/brumactl.fish", "-l {}"),
        ("docs/man/brumactl.8", "Fl -{}"),
    ],
)
def test_every_option_is_completed_and_described(file, form):
    assert len(LONG_OPTIONS) > 20
    text = (ROOT / file).read_text()
    missing = [o for o in LONG_OPTIONS if not re.search(re.escape(form.format(o)) + r"(?![\w-])", text)]
    assert not missing


@pytest.mark.parametrize("name", ["_brumactl", "brumactl.fish"])
def test_other_shells_know_every_command(name):
    text = (ROOT / "ctl/completion" / name).read_text()
    for command in commands():
        assert re.search(rf"\b{command}\b", text), command
