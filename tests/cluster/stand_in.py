# SPDX-License-Identifier: Apache-2.0
"""Stands in for istiod where none is given: ADS and CA for node proxies, over TLS at the name and port of
istiod's Service. It knows what the API server says, as istiod does: pods, services and policies, and that a
pod takes HBONE once its annotation says so. Tokens are asked after by TokenReview, and an identity is only
signed for a node on which one of its pods is."""

import hashlib
import ipaddress
import threading
import time
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

import plan
from api import Refused
from support.certificates import key_pem, pem
from support.network import inside
from support.system import Failed
from support.xds.control_plane import ADDRESS, AUTHORIZATION, CA, XDS
from support.xds.plane import Plane, packed

STRICT = f"{plan.SYSTEM}/istio_converted_static_strict"
REDIRECTION = "ambient.istio.io/redirection"
SECURITY = "security.istio.io/v1"
WATCHED = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "policies": f"/apis/{SECURITY}/authorizationpolicies",
    "peers": f"/apis/{SECURITY}/peerauthentications",
}
NAMES = ["istiod.istio-system.svc", "istio-pilot.istio-system.svc", "istiod-remote.istio-system.svc"]


def crd(kind, plural):
    """Enough of the real one for objects of this kind to be kept."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.security.istio.io"},
        "spec": {
            "group": "security.istio.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }


class StandIn(Plane):
    name = "the tests' own control plane (no BRUMA_ISTIOD was given)"

    def __init__(self, cluster):
        self.cluster, self.api = cluster, cluster.api
        self.objects = {kind: {} for kind in WATCHED}  # kind -> namespace/name -> object
        self.reviews = {}  # token -> (when, who)
        self.changed, self.ended, self.threads = threading.Event(), threading.Event(), []
        self.replaying = False
        self._prepare()
        super().__init__(f"{cluster.directory}/istiod", cluster.netns, plan.XDS_PORT)
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "istio-ca-root-cert", "namespace": plan.SYSTEM},
                "data": {"root-cert.pem": pem(self.authority.cert).decode()},
            }
        )
        for target, arguments in [(self._watch, (kind,)) for kind in WATCHED] + [(self._serve_changes, ())]:
            self.threads.append(threading.Thread(target=target, args=arguments, daemon=True))
            self.threads[-1].start()

    def _prepare(self):
        self.cluster.namespace(plan.SYSTEM)
        self.api.apply(
            crd("AuthorizationPolicy", "authorizationpolicies"),
            crd("PeerAuthentication", "peerauthentications"),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "istiod", "namespace": plan.SYSTEM},
                "spec": {"ports": [{"name": "https-dns", "port": plan.XDS_PORT, "protocol": "TCP"}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {
                    "name": "istiod-test",
                    "namespace": plan.SYSTEM,
                    "labels": {"kubernetes.io/service-name": "istiod"},
                },
                "ports": [{"name": "https-dns", "port": plan.XDS_PORT, "protocol": "TCP"}],
                "endpoints": [{"addresses": [plan.CONTROL4], "conditions": {"ready": True}}],
            },
        )

    def start(self):
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self.authority.sign(key.public_key(), [x509.DNSName(n) for n in NAMES], ends=86400)
        self.server = self._make_server()
        with inside(self.netns):
            address = f"{plan.CONTROL4}:{self.port}"
            if not self.server.add_secure_port(
                address, grpc.ssl_server_credentials([(key_pem(key), pem(cert))])
            ):
                raise Failed(f"the control plane cannot listen on {address}")
            self.server.start()

    def _make_server(self):
        server = grpc.server(futures.ThreadPoolExecutor(32))
        raw = lambda x: x
        for path, handler in (
            (XDS, grpc.stream_stream_rpc_method_handler(self._ads, raw, raw)),
            (CA, grpc.unary_unary_rpc_method_handler(self._ca, raw, raw)),
        ):
            service, method = path.split("/")[1:]
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {method: handler}),)
            )
        return server

    def close(self):
        self.ended.set()
        self.changed.set()
        self.stop()
        for t in self.threads:
            t.join(10)

    # ---- who asks ----

    def _review(self, context):
        """The service account, pod and node of the caller's token; ends the call if it is no good."""
        token = dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer ")
        when, who = self.reviews.get(hashlib.sha256(token.encode()).digest(), (0, None))
        if time.monotonic() - when < 10:
            return who
        try:
            status = self.api(
                "POST",
                "/apis/authentication.k8s.io/v1/tokenreviews",
                {
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenReview",
                    "spec": {"token": token, "audiences": ["istio-ca"]},
                },
            )["status"]
        except (OSError, Failed):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the API server is away")
        user = status.get("user", {})
        if (
            not status.get("authenticated")
            or user.get("username") != f"system:serviceaccount:{plan.SYSTEM}:ztunnel"
        ):
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, f"token of {user.get('username')}: {status.get('error')}"
            )
        who = {k.rpartition("/")[2]: v[0] for k, v in user.get("extra", {}).items()}
        self.reviews[hashlib.sha256(token.encode()).digest()] = time.monotonic(), who
        return who

    def _ads(self, requests, context):
        self._review(context)
        yield from super()._ads(requests, context)

    def _ca(self, data, context):
        node = self._review(context).get("node-name")
        q = self.messages["istio.v1.auth.IstioCertificateRequest"].FromString(data)
        identity = next(
            (f.value.string_value for f in q.metadata.fields if f.key == "ImpersonatedIdentity"), ""
        )
        if not any(
            identity == f"spiffe://cluster.local/ns/{p['metadata']['namespace']}/sa/{account(p['spec'])}"
            for p in list(self.objects["pods"].values())
            if p["spec"].get("nodeName") == node
        ):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"no pod of {identity} on {node}")
        return super()._ca(data, context)

    # ---- what the API server says ----

    def _watch(self, kind):
        while not self.ended.is_set():
            held, listed = {}, False
            try:
                for event, o in self.api.watch(WATCHED[kind], 30):
                    if event == "LISTED":
                        self.objects[kind], listed = held, True
                    elif event == "DELETED":
                        held = {k: v for k, v in held.items() if k != key(o)}
                    elif event in ("ADDED", "MODIFIED"):
                        held = {**held, key(o): o}
                    if listed:
                        self.objects[kind] = held
                        self.changed.set()
                    if self.ended.is_set():
                        return
            except (OSError, ValueError, Refused, Failed):
                self.ended.wait(0.5)

    def _serve_changes(self):
        while True:
            self.changed.wait()
            self.changed.clear()
            if self.ended.is_set():
                return
            if not self.replaying:
                self.publish(AUTHORIZATION, self.policies())
                self.publish(ADDRESS, self.addresses())

    def publish(self, type_url, wanted):
        """wanted: name -> message. Sends what has changed to all streams."""
        data = {
            name: m if isinstance(m, bytes) else m.SerializeToString(deterministic=True)
            for name, m in wanted.items()
        }
        with self.lock:
            have = self.resources[type_url]
            new = {n: (hashlib.sha256(d).hexdigest()[:16], d) for n, d in data.items()}
            changed = {n: v for n, v in new.items() if have.get(n) != v}
            removed = [n for n in have if n not in new]
            self.resources[type_url] = new
            if changed or removed:
                for s in self.streams:
                    if not s.ended.is_set() and s.first(type_url):
                        self.respond(s, type_url, changed, removed)

    # ---- addresses ----

    def addresses(self):
        services = list(self.objects["services"].values())
        out = {}
        for pod in list(self.objects["pods"].values()):
            status = pod.get("status", {})
            if status.get("podIPs") and status.get("phase") in ("Running", "Pending"):
                m = self._workload(pod, services)
                out[m.workload.uid] = m
        for s in services:
            m = self._service(s)
            out[f"{m.service.namespace}/{m.service.hostname}"] = m
        return out

    def _workload(self, pod, services):
        meta, spec, status = pod["metadata"], pod["spec"], pod["status"]
        labels = meta.get("labels", {})
        m = self.messages["istio.workload.Address"]()
        w = m.workload
        w.uid = f"Kubernetes//Pod/{meta['namespace']}/{meta['name']}"
        w.name, w.namespace, w.node, w.cluster_id = (
            meta["name"],
            meta["namespace"],
            spec.get("nodeName", ""),
            "Kubernetes",
        )
        w.service_account, w.workload_name, w.canonical_revision = account(spec), meta["name"], "latest"
        w.canonical_name = labels.get("app", meta["name"])
        w.workload_type = 2
        if spec.get("hostNetwork"):
            w.network_mode = 1
        else:
            w.addresses.extend(packed(ip["ip"]) for ip in status["podIPs"])
        if meta.get("annotations", {}).get(REDIRECTION) == "enabled":
            w.tunnel_protocol = 1
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
        if not ready or meta.get("deletionTimestamp"):
            w.status = 1
        for s in services:
            selector = s["spec"].get("selector")
            if (
                selector
                and s["metadata"]["namespace"] == meta["namespace"]
                and selector.items() <= labels.items()
            ):
                entry = w.services.add(key=f"{meta['namespace']}/{hostname(s)}")
                for p in s["spec"]["ports"]:
                    entry.value.ports.add(service_port=p["port"], target_port=self._target(p, spec))
        w.authorization_policies.extend(self._policies_of(meta["namespace"], labels))
        return m

    @staticmethod
    def _target(port, spec):
        target = port.get("targetPort", port["port"])
        if isinstance(target, int):
            return target
        return next(
            (
                p["containerPort"]
                for c in spec["containers"]
                for p in c.get("ports", [])
                if p.get("name") == target
            ),
            0,
        )

    def _service(self, s):
        m = self.messages["istio.workload.Address"]()
        m.service.name, m.service.namespace, m.service.hostname = (
            s["metadata"]["name"],
            s["metadata"]["namespace"],
            hostname(s),
        )
        for ip in s["spec"].get("clusterIPs", []):
            if ip != "None":
                m.service.addresses.add(address=packed(ip))
        for p in s["spec"].get("ports", []):
            target = p.get("targetPort", p["port"])
            m.service.ports.add(service_port=p["port"], target_port=target if isinstance(target, int) else 0)
        return m

    # ---- policies ----

    def _policies_of(self, namespace, labels):
        """Names that a workload carries: of policies with a selector, and of what its namespace's strictness
        became."""
        out = []
        for o in list(self.objects["policies"].values()):
            selector = o["spec"].get("selector", {}).get("matchLabels")
            if selector and o["metadata"]["namespace"] == namespace and selector.items() <= labels.items():
                out.append(key(o))
        for o in list(self.objects["peers"].values()):
            selector = o["spec"].get("selector", {}).get("matchLabels", {})
            strict = o["spec"].get("mtls", {}).get("mode") == "STRICT"
            if (
                strict
                and o["metadata"]["namespace"] in (namespace, plan.SYSTEM)
                and selector.items() <= labels.items()
            ):
                out.append(STRICT)
        return sorted(set(out))

    def policies(self):
        strict = self.messages["istio.security.Authorization"](
            name=STRICT.split("/")[1], namespace=plan.SYSTEM, scope=2, action=1
        )
        strict.rules.add().clauses.add().matches.add().not_principals.add().presence.SetInParent()
        out = {STRICT: strict}
        for o in list(self.objects["policies"].values()):
            spec, namespace = o["spec"], o["metadata"]["namespace"]
            m = self.messages["istio.security.Authorization"](name=o["metadata"]["name"], namespace=namespace)
            m.scope = 2 if spec.get("selector") else 0 if namespace == plan.SYSTEM else 1
            m.action = {"ALLOW": 0, "DENY": 1}[spec.get("action", "ALLOW")]
            for rule in spec.get("rules", []):
                self._add_rule(m.rules.add(), rule)
            out[key(o)] = m
        return out

    @staticmethod
    def _add_rule(r, rule):
        """A clause of all places that it may go to, and one of all that it may come from. Only what layer 4
        knows."""
        if rule.get("to"):
            clause = r.clauses.add()
            for to in rule["to"]:
                clause.matches.add(destination_ports=[int(p) for p in to["operation"]["ports"]])
        if rule.get("from"):
            clause = r.clauses.add()
            for source in (f["source"] for f in rule["from"]):
                match = clause.matches.add()
                for name in ("principals", "notPrincipals", "namespaces", "notNamespaces"):
                    for value in source.get(name, []):
                        field = getattr(match, name.replace("notP", "not_p").replace("notN", "not_n")).add()
                        field.exact = value
                for block in source.get("ipBlocks", []):
                    network = ipaddress.ip_network(block)
                    match.source_ips.add(address=network.network_address.packed, length=network.prefixlen)

    # ---- recordings ----

    def replay(self, recordings):
        """Serves these DeltaDiscoveryResponses, as a stock istiod once sent them, instead of what the API
        server says, until replay([]). Resources of this cluster's own pods stay."""
        own = {ADDRESS: self.addresses(), AUTHORIZATION: self.policies()}
        self.replaying = bool(recordings)
        for data in recordings:
            r = self.messages["envoy.service.discovery.v3.DeltaDiscoveryResponse"].FromString(data)
            held = own[r.type_url]
            held.update({item.name: item.resource.value for item in r.resources})
            for name in r.removed_resources:
                held.pop(name, None)
            self.publish(r.type_url, held)
        self.changed.set()

    def nacked(self):
        """What proxies did not take."""
        return [r.error_detail.message for s in self.streams for r in s.nacks()]


def key(o):
    return f"{o['metadata']['namespace']}/{o['metadata']['name']}"


def hostname(service):
    return f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"


def account(spec):
    """Mirrors of static pods have none that is written down."""
    return spec.get("serviceAccountName", "default")
