# SPDX-License-Identifier: Apache-2.0
"""brumactl whose API server, forwarded ports or nodes misbehave, and what it does with a terminal, signals and descriptors
then."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time

import pytest

from support.kube.forwarder import TOKEN, Forwarder
from support.kube.operator import ctl
from support.nodes.mesh import Mesh
from support.programs import program
from support.system import Process, wait_for

ROOM = 300 * 1024 * 1024  # bytes of memory that an answer of no end may cost
EVIL = "\x1b]0;owned\a\x1b[2J\u009b31m\u202eevil"


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=("--ready-port", "8000")) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        yield m


@pytest.fixture
def api(mesh, tmp_path):
    with Forwarder(tmp_path / "api", mesh.nodes) as a:
        yield a


def measured(*argv, **options):
    """Of the call, and how long it took; with too little memory to keep what has no end."""
    began = time.monotonic()
    r = ctl(*argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (ROOM, ROOM)), **options)
    return r, time.monotonic() - began


def harmless(text):
    return not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c == "\u202e" for c in text)


def texts_of(found):
    if isinstance(found, str):
        return [found]
    parts = [*found, *found.values()] if isinstance(found, dict) else found if isinstance(found, list) else []
    return [text for part in parts for text in texts_of(part)]


# ---- who is trusted ----


def test_a_ca_of_the_kubeconfig_is_the_only_one(api, tmp_path):
    """The system trusts the server, and the kubeconfig names another CA."""
    system, other = tmp_path / "certs", tmp_path / "other.crt"
    system.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{other}.key"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-subj", "/CN=another CA", "-out", other],
        check=True,
        capture_output=True,
    )
    os.link(f"{api.directory}/ca.crt", system / "ca-certificates.crt")
    subprocess.run(["openssl", "rehash", system], check=True, capture_output=True)

    def call(**cluster):
        argv = [program("brumactl"), "pods", "--kubeconfig", api.kubeconfig(**cluster)]
        script = 'mount --bind "$0" /etc/ssl/certs && exec "$@"'
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", script, str(system), *argv],
            capture_output=True,
            text=True,
            timeout=60,
        )

    r = call(**{"certificate-authority": None})
    assert r.returncode == 0, r.stderr  # so the system does trust it
    r = call(**{"certificate-authority": str(other)})
    assert r.returncode == 3 and "certificate" in r.stderr, r.stdout + r.stderr


# ---- ports that are forwarded badly ----


@pytest.mark.parametrize(
    ("fault", "words", "seconds"),
    [
        ("flood", "no end of ?[2J complaints", 8),
        ("empty flood", "nothing has come for 10 seconds", 25),
        ("silence", "nothing has come for 10 seconds", 25),
        (b"", "the answer is longer than 512 MiB", 60),
    ],
)
def test_a_forwarded_port_that_has_no_end(api, fault, words, seconds):
    api.faults["agent-node1"] = fault
    if fault == b"":
        r = ctl("pods", kubeconfig=api.kubeconfig(), check=0)
        assert api.poured < 700_000_000
    else:
        r, took = measured("pods", kubeconfig=api.kubeconfig(), check=0)
        assert took < seconds
    assert "shop" in r.stdout and r.stderr.count("node node1: ") == 1 and words in r.stderr, r.stderr


def test_a_list_that_has_no_end(api):
    api.list_fault = "endless"
    r, took = measured("pods", kubeconfig=api.kubeconfig(), check=3)
    assert "sends more than 64 MiB" in r.stderr and took < 30, r.stderr
    assert api.poured < 100_000_000


# ---- texts that would drive a terminal ----


def test_names_and_messages_of_a_node_do_not_drive_the_terminal(api):
    pod = {
        "namespace": EVIL,
        "name": EVIL,
        "state": EVIL,
        "ips": [EVIL],
        "unmended": [EVIL],
        "mends": {EVIL: 3},
    }
    finding = {"check": EVIL, "ok": False, "detail": EVIL, "reason": EVIL, "advice": EVIL}
    status = {
        "version": EVIL,
        "node": EVIL,
        "problems": [{"what": EVIL, "reason": EVIL, "detail": EVIL, "check": EVIL}],
    }
    status |= {
        "pods": {EVIL: 1},
        "trustDomain": EVIL,
        "meshFile": EVIL,
        "proxies": [{"version": EVIL, "state": EVIL}],
    }
    policy = {"namespace": EVIL, "name": EVIL, "action": EVIL, "scope": EVIL, "rules": [{EVIL: EVIL}]}
    dump = {"workloadState": [], "policies": [policy], "certificates": [{"identity": EVIL, "error": EVIL}]}
    line = {
        "time": EVIL * 3,
        "message": EVIL,
        "direction": EVIL,
        "duration": EVIL,
        "src.workload": EVIL,
        "error": EVIL,
    }
    cases = {
        ("pods",): [pod],
        ("explain", "demo/web"): [finding | {"namespace": "demo", "name": "web"}],
        ("doctor",): [finding],
        ("doctor", "-A"): {"error": EVIL, "reason": EVIL},
        ("status",): [status],
        ("status", "--node", "node1"): [status],
        ("policy",): dump,
        ("identities",): dump,
        ("flows", "--for", "1"): {"next": 5, "lost": 0, "lines": [line]},
    }
    for command, answer in cases.items():
        raw = json.dumps(answer).encode()
        api.faults.update(dict.fromkeys(api.places, raw))
        r = ctl(*command, kubeconfig=api.kubeconfig())
        assert "evil" in r.stdout + r.stderr, (command, r.stdout, r.stderr)
        assert harmless(r.stdout) and harmless(r.stderr), (command, r.stdout, r.stderr)
        r = ctl(*command, "-o", "json", kubeconfig=api.kubeconfig())
        assert harmless(r.stdout) and harmless(r.stderr), command
        for text in r.stdout.splitlines() if command[0] == "flows" else [r.stdout]:
            found = json.loads(text)
            kept = (
                "evil" if command == ("doctor", "-A") else EVIL
            )  # complaints are told as they are on a terminal
            assert any(kept in t for t in texts_of(found)), command


# ---- what it inherits and passes on ----


def test_many_nodes_need_more_descriptors_than_a_shell_gives(mesh, tmp_path):
    """Each node needs some, at a time 32 of them."""
    with Forwarder(tmp_path / "api", mesh.nodes) as api:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        r = ctl(
            "pods",
            kubeconfig=api.kubeconfig(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (11, limit)),
        )
    assert r.returncode == 0 and "web" in r.stdout and "shop" in r.stdout, r.stderr


def test_a_credential_plugin_gets_signals_as_a_shell_would_give_them(api):
    path = f"{api.directory}/plugin"
    said = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": TOKEN},
    }
    with open(path, "w") as f:
        f.write(f"#!{sys.executable} -S\nimport json\n")
        f.write("lines = dict(l.split(':', 1) for l in open('/proc/self/status'))\n")
        f.write(
            f"open({path + '.signals'!r}, 'w').write(lines['SigBlk'] + lines['SigIgn'])\nprint(json.dumps({said!r}))\n"
        )
    os.chmod(path, stat.S_IRWXU)
    plugin = {"apiVersion": said["apiVersion"], "command": path, "interactiveMode": "Never"}

    def block():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGPIPE})

    ctl(
        "pods",
        kubeconfig=api.kubeconfig(user={"exec": plugin}),
        check=0,
        preexec_fn=block,
        restore_signals=True,
    )
    with open(path + ".signals") as f:
        blocked, ignored = (int(line, 16) for line in f)
    assert blocked == 0
    # Python ignores SIGPIPE and SIGXFSZ itself; and what this test was started with is ignored there too.
    with open("/proc/self/status") as f:
        own = next(int(line.split()[1], 16) for line in f if line.startswith("SigIgn"))
    assert ignored & ~own & ~(1 << signal.SIGXFSZ - 1) & ~(1 << signal.SIGPIPE - 1) == 0


# ---- flows that go on ----


def following(api, log, *options):
    argv = [program("brumactl"), "flows", "-f", "-o", "json", *options, "--kubeconfig", api.kubeconfig()]
    return Process(argv, str(log), env={"HOME": "/nowhere"})


def told(p, *words):
    """Whether one line of it has them all."""
    return [line for line in p.text().splitlines() if all(w in line for w in words)]


def connect(mesh):
    mesh.web.run(
        "/usr/bin/python3",
        "-c",
        f"import socket; socket.create_connection(('{mesh.shop.ip}', 8080), 5)",
        check=False,
    )


def seen_of(p, mesh, node):
    def seen():
        connect(mesh)
        return told(p, f'"node":"{node}"')

    return seen


def test_flows_go_on_when_a_node_that_was_silent_answers(mesh, api, tmp_path):
    p = following(api, tmp_path / "flows")
    wait_for(seen_of(p, mesh, "node1"), "node1 to tell", interval=0.3)
    api.faults["proxy-node1"] = "silence"
    wait_for(
        lambda: told(p, "node node1: ", "nothing has come for 10 seconds"), "the silence to be noticed", 20
    )
    # Nobody else waits for it.
    before = len(told(p, '"node":"node2"'))
    wait_for(
        lambda: connect(mesh) or len(told(p, '"node":"node2"')) > before, "node2 to tell", 5, interval=0.3
    )
    before = len(told(p, '"node":"node1"'))
    del api.faults["proxy-node1"]
    wait_for(lambda: told(p, "node node1: answers again"), "it to be asked anew", 40)
    assert told(p, "node node1: a gap: ", "seconds is not known"), p.text()
    wait_for(
        lambda: connect(mesh) or len(told(p, '"node":"node1"')) > before, "node1 to tell", 10, interval=0.3
    )
    p.kill(signal.SIGINT)
    assert p.wait(5) == 0


def test_flows_find_the_proxy_that_took_the_place_of_another(mesh, api, tmp_path):
    p = following(api, tmp_path / "flows", "--node", "node1")
    wait_for(seen_of(p, mesh, "node1"), "node1 to tell", interval=0.3)
    api.generation = "-next"
    api.cut()
    wait_for(lambda: told(p, "node node1: answers again"), "the other pod to be found", 20)
    assert told(p, "node node1: a gap: "), p.text()
    before = len(told(p, '"node":"node1"'))
    wait_for(
        lambda: connect(mesh) or len(told(p, '"node":"node1"')) > before, "node1 to tell", 10, interval=0.3
    )
    p.kill(signal.SIGTERM)
    assert p.wait(5) == 0


def test_attempts_to_connect_become_fewer(api, tmp_path):
    api.faults["proxy-node1"] = "refuse"
    p = following(api, tmp_path / "flows")
    time.sleep(8)
    p.kill(signal.SIGINT)
    assert p.wait(5) == 0
    attempts = [path for path, _ in api.asked if "proxy-node1" in path]
    assert 3 <= len(attempts) <= 5, attempts  # after 0, 1, 3 and 7 seconds
    assert len(told(p, "node node1: ")) == 1


def test_flows_of_nobody_end(api):
    api.faults.update({"proxy-node1": "refuse", "proxy-node2": "cut"})
    r = ctl("flows", "-f", kubeconfig=api.kubeconfig(), check=3)
    assert r.stderr.count("node ") >= 2


def test_the_second_interrupt_ends_flows_at_once(api, tmp_path):
    """The first one waits for a node that is just being asked, for a second at most."""
    p = following(api, tmp_path / "flows")
    wait_for(lambda: [path for path, _ in api.asked if "proxy-node1" in path], "the question")
    time.sleep(1)
    with open(f"/proc/{p.pid}/status") as f:
        caught = next(int(line.split()[1], 16) for line in f if line.startswith("SigCgt"))
    assert caught >> (signal.SIGINT - 1) & 1
    api.faults["proxy-node1"] = "silence"
    time.sleep(0.7)
    p.kill(signal.SIGINT)
    p.kill(signal.SIGINT)
    assert p.wait(5) in (0, -signal.SIGINT)
