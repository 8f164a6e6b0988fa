# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server from its network namespace, as whoever holds a certificate or a token."""

import contextlib
import http.client
import json
import socket
import ssl

from plan import API_PORT, CONTROL4
from support.network import inside
from support.system import Failed

PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "AuthorizationPolicy": "authorizationpolicies",
    "Gateway": "gateways",
    "Endpoints": "endpoints",
    "ServiceEntry": "serviceentries",
    "WorkloadEntry": "workloadentries",
}
OF_THE_CLUSTER = ("Namespace", "Node", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding")


class Refused(Failed):
    def __init__(self, text, status):
        super().__init__(text)
        self.status = status


def path_of(version, kind, namespace=None, name=None):
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    where = "" if kind in OF_THE_CLUSTER else f"/namespaces/{namespace or 'default'}"
    return f"{'/apis' if '/' in version else '/api'}/{version}{where}/{plural}" + (f"/{name}" if name else "")


class Api:
    def __init__(self, netns, ca, certificate=None, key=None, token=None):
        self.netns, self.token = netns, token
        self.context = ssl.create_default_context(cafile=ca)
        if certificate:
            self.context.load_cert_chain(certificate, key)

    def _connect(self, timeout):
        with inside(self.netns):
            s = socket.create_connection((CONTROL4, API_PORT), 10)
        c = http.client.HTTPSConnection(CONTROL4, API_PORT, timeout=timeout, context=self.context)
        c.sock = self.context.wrap_socket(s, server_hostname=CONTROL4)
        c.sock.settimeout(timeout)
        return c

    def __call__(self, method, path, body=None, content_type="application/json", timeout=30):
        headers = {"Content-Type": content_type}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with contextlib.closing(self._connect(timeout)) as c:
            c.request(method, path, None if body is None else json.dumps(body), headers)
            r = c.getresponse()
            text = r.read().decode()
        if r.status >= 300:
            raise Refused(f"{method} {path}: {r.status} {text[:500]}", r.status)
        return json.loads(text) if text.startswith("{") else text

    def apply(self, *objects):
        """Server-side apply. Returns what the last one became."""
        made = None
        for o in objects:
            meta = o["metadata"]
            path = path_of(o["apiVersion"], o["kind"], meta.get("namespace"), meta["name"])
            made = self("PATCH", f"{path}?fieldManager=test&force=true", o, "application/apply-patch+yaml")
        return made

    def get(self, kind, name, namespace=None, version="v1"):
        return self("GET", path_of(version, kind, namespace, name))

    def list(self, kind, namespace=None, version="v1", selector=None):
        path = path_of(version, kind, namespace)
        if namespace is None:
            path = path.replace("/namespaces/default", "")
        return self("GET", path + (f"?labelSelector={selector}" if selector else ""))["items"]

    def merge(self, kind, name, change, namespace=None, version="v1"):
        return self("PATCH", path_of(version, kind, namespace, name), change, "application/merge-patch+json")

    def delete(self, kind, name, namespace=None, version="v1", grace=None):
        """Gone or going; it is no failure if there is none."""
        path = path_of(version, kind, namespace, name) + "?propagationPolicy=Background"
        try:
            self("DELETE", path + (f"&gracePeriodSeconds={grace}" if grace is not None else ""))
        except Refused as e:
            if e.status != 404:
                raise

    def watch(self, path, timeout=None):
        """Lists, then watches, until the connection ends: yields (type, object); a list is ADDED of each and
        then ("LISTED", None)."""
        listed = self("GET", path)
        for item in listed["items"]:
            yield "ADDED", item
        yield "LISTED", None
        version = listed["metadata"]["resourceVersion"]
        with contextlib.closing(self._connect(timeout)) as c:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            c.request("GET", f"{path}?watch=1&resourceVersion={version}", headers=headers)
            r = c.getresponse()
            if r.status != 200:
                raise Refused(f"watch of {path}: {r.status}", r.status)
            while line := r.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(
                        f"watch of {path}: {event['object'].get('message')}", event["object"].get("code", 0)
                    )
                yield event["type"], event["object"]
