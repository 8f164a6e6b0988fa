# SPDX-License-Identifier: Apache-2.0
"""Mesh files as people would write them."""

import os

import yaml

AMBIENT = {"istio.io/dataplane-mode": "ambient"}


class Exact(str):
    """A string match: !Exact value."""


class Prefix(str):
    """A string match: !Prefix value."""


class _Quoted(str):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


_Dumper.add_representer(Exact, lambda d, v: d.represent_scalar("!Exact", str(v)))
_Dumper.add_representer(Prefix, lambda d, v: d.represent_scalar("!Prefix", str(v)))
_Dumper.add_representer(_Quoted, lambda d, v: d.represent_scalar("tag:yaml.org,2002:str", str(v), style='"'))


class MeshFile:
    """Namespaces, workloads, services and policies, written whole and by rename, as a careful editor does."""

    def __init__(self, trust_domain="cluster.local"):
        self.trust_domain = trust_domain
        self.namespaces, self.workloads, self.services, self.policies = {}, {}, {}, {}

    def namespace(self, name, ambient=True, labels=None):
        self.namespaces[name] = dict(labels or {}, **(AMBIENT if ambient else {}))

    def workload(self, namespace, name, ips, node="", account="default", services=None, policies=(), **more):
        uid = more.pop("uid", f"bruma//Pod/{namespace}/{name}")
        self.workloads[uid] = {
            "uid": uid,
            "name": name,
            "namespace": namespace,
            "serviceAccount": account,
            "trustDomain": self.trust_domain,
            "workloadIps": [_Quoted(ip) for ip in ips],
            "node": node,
            "services": services or {},
            "authorizationPolicies": list(policies),
            **more,
        }
        return uid

    def remove_workload(self, uid):
        del self.workloads[uid]

    def service(self, namespace, name, vips, ports, hostname=None, **more):
        hostname = hostname or f"{name}.{namespace}.svc.cluster.local"
        self.services[f"{namespace}/{hostname}"] = {
            "name": name,
            "namespace": namespace,
            "hostname": hostname,
            "vips": [_Quoted(f"/{v}") for v in vips],
            "ports": ports,
            **more,
        }
        return f"{namespace}/{hostname}"

    def policy(self, namespace, name, rules, action="Allow", scope="WorkloadSelector", dry_run=False):
        """rules: a list of rules, each a list of clauses, each a list of matches."""
        self.policies[f"{namespace}/{name}"] = {
            "name": name,
            "namespace": namespace,
            "scope": scope,
            "action": action,
            "dryRun": dry_run,
            "rules": rules,
        }
        return f"{namespace}/{name}"

    def principal(self, namespace, account):
        return Exact(f"{self.trust_domain}/ns/{namespace}/sa/{account}")

    def text(self):
        content = {
            "namespaces": [{"name": n, "labels": labels} for n, labels in self.namespaces.items()],
            "workloads": list(self.workloads.values()),
            "services": list(self.services.values()),
            "policies": list(self.policies.values()),
        }
        return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=None)

    def write(self, path):
        fresh = f"{path}.new"
        with open(fresh, "w") as f:
            f.write(self.text())
        os.rename(fresh, path)
