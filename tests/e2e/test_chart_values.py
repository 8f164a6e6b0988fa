# SPDX-License-Identifier: Apache-2.0
"""Every value of Istio's charts for ztunnel and the CNI agent: it changes what is rendered, or is refused by
its name, or the page says why it changes nothing. None is passed over in silence."""

import os

import pytest

from support.chart import HELM, template
from support.programs import ROOT

# Istio's name, and where it is here with a value that is not the default; "refused", or "no effect".
CNI = """
hub                                     global.hub=x.example/y
tag                                     global.tag=9
variant                                 global.variant=debug                                   refused
image                                   image=x.example/y:1
pullPolicy                              global.imagePullPolicy=Always
logging.level                           cni.logging.level=debug
cniBinDir                               cni.cniBinDir=/a
cniConfDir                              cni.cniConfDir=/a
cniConfFileName                         cni.cniConfFileName=a                                  refused
cniNetnsDir                             cni.cniNetnsDir=/a
istioOwnedCNIConfigFileName             cni.istioOwnedCNIConfigFileName=01-a.conflist
istioOwnedCNIConfig                     cni.istioOwnedCNIConfig=true
excludeNamespaces                       cni.excludeNamespaces={a}
affinity                                cni.affinity.nodeAffinity.a=b
daemonSetLabels                         cni.daemonSetLabels.a=b
podAnnotations                          cni.podAnnotations.a=b
podLabels                               cni.podLabels.a=b
chained                                 cni.chained=false                                      refused
provider                                cni.provider=multus                                    refused
ambient.enabled                         cni.ambient.enabled=false                              refused
ambient.enablementSelectors             cni.ambient.enablementSelectors[0].podSelector.a=b
ambient.configDir                       cni.ambient.configDir=/a                               refused
ambient.dnsCapture                      cni.ambient.dnsCapture=false
ambient.ipv6                            cni.ambient.ipv6=false                                 refused
ambient.reconcileIptablesOnStartup      cni.ambient.reconcileIptablesOnStartup=false           no effect
ambient.shareHostNetworkNamespace       cni.ambient.shareHostNetworkNamespace=false            refused
ambient.enableAmbientDetectionRetry     cni.ambient.enableAmbientDetectionRetry=false          refused
repair.enabled                          cni.repair.enabled=true                                refused
repair.hub                              cni.repair.hub=a                                       refused
repair.tag                              cni.repair.tag=a                                       refused
repair.labelPods                        cni.repair.labelPods=true                              refused
repair.deletePods                       cni.repair.deletePods=true                             refused
repair.repairPods                       cni.repair.repairPods=true                             refused
repair.initContainerName                cni.repair.initContainerName=a                         refused
repair.brokenPodLabelKey                cni.repair.brokenPodLabelKey=a                         refused
repair.brokenPodLabelValue              cni.repair.brokenPodLabelValue=a                       refused
seccompProfile                          cni.seccompProfile.type=Unconfined
seLinuxOptions                          cni.seLinuxOptions.type=a
useAppArmorAnnotation                   cni.useAppArmorAnnotation=false                        refused
resources                               cni.resources.limits.cpu=3
resourceQuotas.enabled                  cni.resourceQuotas.enabled=true
resourceQuotas.pods                     cni.resourceQuotas.enabled=true,cni.resourceQuotas.pods=7
tolerations                             cni.tolerations[0].key=a
updateStrategy                          cni.updateStrategy.type=OnDelete
terminationGracePeriodSeconds           cni.terminationGracePeriodSeconds=77
revision                                revision=a
ownerName                               cni.ownerName=a                                        refused
global.hub                              global.hub=x.example/y
global.tag                              global.tag=9
global.variant                          global.variant=debug                                   refused
global.imagePullPolicy                  global.imagePullPolicy=Always
global.logging.level                    global.logging.level=debug
global.logAsJson                        global.logAsJson=true
global.networkPolicy.enabled            global.networkPolicy.enabled=true
global.imagePullSecrets                 global.imagePullSecrets={a}
global.defaultResources                 global.defaultResources.requests.cpu=3                 refused
global.nativeNftables                   global.nativeNftables=true                             no effect
global.resourceScope                    global.resourceScope=cluster
global.platform                         global.platform=k3s
platform                                platform=k3s
profile                                 profile=ambient                                        refused
compatibilityVersion                    compatibilityVersion=1.28                              refused
env                                     cni.env.A=b
"""
ZTUNNEL = """
hub                                     global.hub=x.example/y
tag                                     global.tag=9
variant                                 global.variant=debug                                   refused
image                                   image=x.example/y:1
network                                 network=a
global.networkPolicy.enabled            global.networkPolicy.enabled=true
resourceName                            ztunnel.resourceName=a
labels                                  ztunnel.labels.a=b
annotations                             ztunnel.annotations.a=b
volumeMounts                            ztunnel.volumeMounts[0].name=a
volumes                                 ztunnel.volumes[0].name=a
tolerations                             ztunnel.tolerations[0].key=a
podAnnotations                          ztunnel.podAnnotations.a=b
podLabels                               ztunnel.podLabels.a=b
resources                               ztunnel.resources.limits.cpu=3
resourceQuotas.enabled                  ztunnel.resourceQuotas.enabled=true
resourceQuotas.pods                     ztunnel.resourceQuotas.enabled=true,ztunnel.resourceQuotas.pods=7
peerCaCrl.enabled                       ztunnel.peerCaCrl.enabled=true
trustBundleName                         ztunnel.trustBundleName=a
imagePullSecrets                        global.imagePullSecrets={a}
env                                     ztunnel.env.A=b
imagePullPolicy                         global.imagePullPolicy=Always
multiCluster.clusterName                multiCluster.clusterName=a
meshConfig.defaultConfig.proxyMetadata  meshConfig.defaultConfig.proxyMetadata.A=b
meshConfig.accessLogFile                meshConfig.accessLogFile=/a                            refused
meshConfig.defaultConfig.tracing        meshConfig.defaultConfig.tracing.a=b                   refused
terminationGracePeriodSeconds           ztunnel.terminationGracePeriodSeconds=77
revision                                revision=a
caAddress                               ztunnel.caAddress=a:1
xdsAddress                              ztunnel.xdsAddress=a:1
istioNamespace                          istioNamespace=a
logLevel                                ztunnel.logLevel=debug
logAsJson                               global.logAsJson=true
seLinuxOptions                          ztunnel.seLinuxOptions.type=a
resourceScope                           global.resourceScope=cluster
updateStrategy                          ztunnel.updateStrategy.type=OnDelete
dnsPolicy                               ztunnel.dnsPolicy=Default
dnsConfig                               ztunnel.dnsConfig.nameservers={10.0.0.1}
nodeSelector                            ztunnel.nodeSelector.a=b
affinity                                ztunnel.affinity.nodeAffinity.a=b
"""


def rows():
    for chart, table in (("cni", CNI), ("ztunnel", ZTUNNEL)):
        for line in table.strip().splitlines():
            name, setting, *what = line.split(maxsplit=2)
            yield pytest.param(chart, name, setting, "".join(what), id=f"{chart}-{name}")


@pytest.fixture(scope="module")
def default():
    if not HELM:
        pytest.skip("helm is not here: BRUMA_HELM names a program, or it is on PATH")
    return template().stdout


@pytest.fixture(scope="module")
def page():
    with open(os.path.join(ROOT, "docs", "install.md")) as f:
        return f.read()


@pytest.mark.parametrize(("chart", "name", "setting", "what"), rows())
def test_a_value_of_istios_charts(default, page, chart, name, setting, what):
    r = template(setting)
    key = setting.partition("=")[0]
    if what == "refused":
        assert r.returncode and name.rpartition(".")[2] in r.stderr, "refused by its name"
        return
    assert r.returncode == 0, r.stderr
    assert (r.stdout == default) == (what == "no effect"), f"{name}: {setting}"
    if what == "no effect":
        assert f"`{name}`" in page, "the page says why"
    elif not setting.startswith(f"{chart}."):
        # it has another place here than below its chart's name
        assert name == key or f"`{name}`" in page or name.startswith("global."), "the page says where"


def test_an_unknown_value_is_refused_in_both_charts(default):
    for setting in ("cni.nothing=1", "ztunnel.nothing=1", "nothing=1"):
        r = template(setting)
        assert r.returncode and "nothing" in r.stderr


def test_the_table_is_whole():
    """Against the charts themselves, where they are given (BRUMA_ISTIO_CHARTS)."""
    charts = os.environ.get("BRUMA_ISTIO_CHARTS")
    if not charts:
        pytest.skip("BRUMA_ISTIO_CHARTS names a directory with Istio's charts")
    yaml = pytest.importorskip("yaml")
    for chart, table in (("istio-cni", CNI), ("ztunnel", ZTUNNEL)):
        with open(f"{charts}/{chart}/values.yaml") as f:
            values = yaml.safe_load(f)["_internal_defaults_do_not_set"]
        known = {line.split()[0] for line in table.strip().splitlines()}

        def check(value, path, known=known, chart=chart):
            if path in known:
                return
            assert isinstance(value, dict) and value, f"{chart}: {path}"
            for name, inner in value.items():
                check(inner, f"{path}.{name}" if path else name)

        check(values, "")
