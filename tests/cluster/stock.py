# SPDX-License-Identifier: Apache-2.0
"""Stock istio-cni and ztunnel as pods of the cluster: images of the programs that BRUMA_ISTIO_CNI and
BRUMA_ZTUNNEL name, installed by Istio's own charts (BRUMA_ISTIO_CHARTS)."""

import glob
import os
import shutil

import images
from plan import SYSTEM
from support.system import Failed, wait_for

ZTUNNEL, INSTALL_CNI = "bruma.test/ztunnel:1", "bruma.test/install-cni:1"
# What istio-cni runs. Sets of addresses, rules and routes of the kernel it writes itself.
RULES = ["nft"] + [f"{ip}tables{end}" for ip in ("ip", "ip6") for end in ("", "-save", "-restore")]
SMALL = ("--set", "resources.requests.cpu=10m", "--set", "resources.requests.memory=32Mi")


def program(variable, name=None):
    """The program that the variable names, or the one of that name in its directory."""
    path = os.environ[variable] + (f"/{name}" if name else "")
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise Failed(f"{variable}: {path} is no program")
    return path


def ztunnel_image(directory):
    path = program("BRUMA_ZTUNNEL")
    return images.make(
        f"{directory}/ztunnel.tar", ZTUNNEL, images.program(path), [f"/usr/bin/{os.path.basename(path)}"]
    )


def cni_image(directory):
    files = images.program(program("BRUMA_ISTIO_CNI", "install-cni"))
    with open(program("BRUMA_ISTIO_CNI", "istio-cni"), "rb") as f:
        files["opt/cni/bin/istio-cni"] = (f.read(), 0o755)
    for name in RULES:
        path = shutil.which(name, path=images.build.PATH)
        if not path:
            raise Failed(f"`{name}` is not installed, which istio-cni needs in its image")
        files.update(images.program(path))
    for path in glob.glob("/usr/lib/*/xtables/*.so"):
        with open(path, "rb") as f:
            files[path.lstrip("/")] = (f.read(), 0o755)
    return images.make(f"{directory}/install-cni.tar", INSTALL_CNI, files, ["/usr/bin/install-cni"])


class Stock:
    """Installed with helm, taken out again by close()."""

    def __init__(self, cluster):
        self.cluster, self.charts, self.installed = cluster, os.environ["BRUMA_ISTIO_CHARTS"], []

    def load(self, *archives):
        for node in self.cluster.nodes.values():
            node.load(*archives)
        for archive in archives:
            os.unlink(archive)  # hundreds of megabytes

    def install(self, name, chart, *settings):
        self.installed.append(name)
        self.cluster.helm(
            "upgrade",
            "--install",
            name,
            f"{self.charts}/{chart}",
            "-n",
            SYSTEM,
            "--set",
            "profile=ambient",
            *SMALL,
            *settings,
        )

    def install_ztunnel(self):
        self.install("ztunnel", "ztunnel", "--set", f"image={ZTUNNEL}", "--set", "imagePullPolicy=Never")

    def install_cni(self):
        self.install(
            "istio-cni",
            "istio-cni",
            "--set",
            f"image={INSTALL_CNI}",
            "--set",
            "pullPolicy=Never",
        )

    def uninstall(self, name):
        self.installed.remove(name)
        self.cluster.helm("uninstall", name, "-n", SYSTEM)

    def close(self, mesh):
        daemons = {"istio-cni": "istio-cni-node", "ztunnel": "ztunnel"}
        for name in reversed(list(self.installed)):
            self.uninstall(name)
            wait_for(lambda: not mesh.pods(daemons[name]), f"pods of {name} to go", 60, 0.2)
