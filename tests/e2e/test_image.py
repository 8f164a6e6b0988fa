# SPDX-License-Identifier: Apache-2.0
"""The container image and the chart."""
import json
import os
import shutil
import subprocess
import tarfile

import pytest
import yaml
from support.system import run

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CHART = os.path.join(ROOT, "charts", "bruma")
HELM = os.environ.get("BRUMA_HELM") or shutil.which("helm")


@pytest.fixture(scope="module")
def image(build, tmp_path_factory):
    """The archive, and its one layer unpacked."""
    folder = str(tmp_path_factory.mktemp("image"))
    run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", f"{folder}/tree"], timeout=120)
    builder = os.path.join(ROOT, "packaging", "image", "build.py")
    for name in ("a", "b"):
        run(["/usr/bin/python3", builder, f"{folder}/tree", "localhost/bruma:test", f"{folder}/{name}.tar"], timeout=120)
    with tarfile.open(f"{folder}/a.tar") as archive:
        archive.extractall(f"{folder}/archive")
    with tarfile.open(f"{folder}/archive/layer.tar") as layer:
        layer.extractall(f"{folder}/root")
    yield folder
    shutil.rmtree(folder)


def test_the_same_tree_gives_the_same_bytes(image):
    with open(f"{image}/a.tar", "rb") as a, open(f"{image}/b.tar", "rb") as b:
        assert a.read() == b.read()


def test_manifest_names_what_is_there(image):
    with open(f"{image}/archive/manifest.json") as f:
        entry = json.load(f)[0]
    with open(f"{image}/archive/{entry['Config']}") as f:
        config = json.load(f)
    digest = run(["sha256sum", f"{image}/archive/layer.tar"]).stdout.split()[0]
    assert entry["RepoTags"] == ["localhost/bruma:test"] and entry["Layers"] == ["layer.tar"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}"] and config["os"] == "linux"


@pytest.mark.parametrize("program", ["usr/sbin/bruma-agent", "usr/sbin/bruma-proxy", "usr/sbin/brumactl"])
def test_programs_run_with_what_is_in_the_image_alone(image, program):
    r = subprocess.run(["/usr/sbin/chroot", f"{image}/root", f"/{program}", "--version"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 0 and "0." in r.stdout, r.stderr


def test_the_plugin_runs_there_too(image):
    r = subprocess.run(["/usr/sbin/chroot", f"{image}/root", "/usr/lib/cni/bruma-cni"], env={"CNI_COMMAND": "VERSION"}, capture_output=True,
                       text=True, timeout=30)
    assert "1.1.0" in json.loads(r.stdout)["supportedVersions"]


def test_an_incomplete_tree_is_refused(build, tmp_path):
    r = subprocess.run(["/usr/bin/python3", os.path.join(ROOT, "packaging", "image", "build.py"), str(tmp_path), "x:1",
                        str(tmp_path / "x.tar")], capture_output=True, text=True)
    assert r.returncode != 0 and "bruma-agent is missing" in r.stderr and not (tmp_path / "x.tar").exists()


# ---- the chart ----

def test_values_and_schema_name_the_same_things():
    """Each value that the chart has is known to the schema, which refuses others."""
    with open(f"{CHART}/values.yaml") as f:
        values = yaml.safe_load(f)
    with open(f"{CHART}/values.schema.json") as f:
        schema = json.load(f)
    assert set(values) == set(schema["properties"]) and schema["additionalProperties"] is False
    for part in ("global", "cni", "ztunnel"):
        assert set(values[part]) == set(schema["properties"][part]["properties"]), part


@pytest.fixture
def helm():
    if not HELM:
        pytest.skip("helm is not here: BRUMA_HELM names a program, or it is on PATH")

    def call(*argv):
        return subprocess.run([HELM, *argv], capture_output=True, text=True, timeout=60)

    return call


def rendered(helm, *settings):
    r = helm("template", "bruma", CHART, "-n", "istio-system", *[a for s in settings for a in ("--set", s)])
    assert r.returncode == 0, r.stderr
    return {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(r.stdout) if d}


def test_helm_lint(helm):
    r = helm("lint", CHART)
    assert r.returncode == 0, r.stdout + r.stderr


def test_names_that_others_depend_on(helm):
    objects = rendered(helm)
    agent, proxy = objects["DaemonSet", "istio-cni-node"], objects["DaemonSet", "ztunnel"]
    assert agent["spec"]["template"]["metadata"]["labels"]["k8s-app"] == "istio-cni-node"
    assert proxy["spec"]["template"]["metadata"]["labels"]["app"] == "ztunnel"
    assert proxy["spec"]["template"]["spec"]["serviceAccountName"] == "ztunnel" and ("ServiceAccount", "ztunnel") in objects
    for d in (agent, proxy):
        assert d["spec"]["template"]["metadata"]["labels"]["istio.io/dataplane-mode"] == "none"


def test_rights_are_the_least(helm):
    (role,) = [d for (kind, _), d in rendered(helm).items() if kind == "ClusterRole"]
    assert [(r["resources"], r["verbs"]) for r in role["rules"]] == [
        (["pods", "namespaces"], ["get", "list", "watch"]), (["pods/status"], ["patch"]), (["daemonsets"], ["get"]), (["events"], ["create", "patch"])]


@pytest.mark.parametrize("platform, path", [("k3s", "/var/lib/rancher/k3s/agent/etc/cni/net.d"), ("gke", "/home/kubernetes/bin"),
                                            ("microk8s", "/var/snap/microk8s/current/opt/cni/bin"),
                                            ("minikube", "/var/run/docker/netns"), ("openshift", "/var/lib/cni/bin")])
def test_platforms(helm, platform, path):
    volumes = rendered(helm, f"global.platform={platform}")["DaemonSet", "istio-cni-node"]["spec"]["template"]["spec"]["volumes"]
    assert path in [v["hostPath"]["path"] for v in volumes]


def test_settings_of_the_programs_exist(helm, build):
    """Every option that the chart gives to the agent is one."""
    args = rendered(helm)["DaemonSet", "istio-cni-node"]["spec"]["template"]["spec"]["containers"][0]["args"]
    known = run([f"{build}/agent/bruma-agent", "--help"]).stdout
    for a in args:
        assert a.split("=")[0] in known, a


@pytest.mark.parametrize("setting", ["global.platform=moon", "ztunnel.terminationGracePeriodSeconds=soon", "cni.noSuchThing=1",
                                     "cni.cniConfDir=relative"])
def test_wrong_values_are_refused(helm, setting):
    r = helm("template", "bruma", CHART, "--set", setting)
    assert r.returncode != 0 and "schema" in r.stderr
