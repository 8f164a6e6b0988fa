# SPDX-License-Identifier: Apache-2.0
"""The part of the Kubernetes API that the agent uses, small enough to misbehave on demand: versions that are
forgotten, streams that are cut, lines of garbage, answers that never come. What it keeps and answers follows
the real one."""

import collections
import contextlib
import http.server
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

from support.kube import server as kube
from support.network import inside

POD = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+))?(/status)?$")
NAMESPACE = re.compile(r"/api/v1/namespaces(?:/([^/]+))?$")
CONFIGMAP = re.compile(r"/api/v1/namespaces/([^/]+)/configmaps(?:/([^/]+))?$")
EVENTS = re.compile(r"/api/v1/namespaces/([^/]+)/events(?:/([^/]+))?$")


def merge(target, patch):
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


class SmallServer(kube.Server):
    def __init__(self, netns, directory, port=6443):
        super().__init__(netns, directory, port)
        self.tokens = {kube.ADMIN, kube.AGENT}
        self.page = None  # objects of a page, if fewer than asked for
        self.bookmarks = 0.2  # seconds
        self.bookmarked = {}  # the newest version that a watch of that kind was told of by a bookmark
        self.faults = collections.defaultdict(
            list
        )  # "list", "watch", "patch", "event", "configmaps" -> functions of the handler
        self.requests = []  # (who, method, path)
        self.condition = threading.Condition()
        self.version, self.oldest = 100, 0
        self.objects = {"pods": {}, "namespaces": {}, "events": {}, "configmaps": {}}
        self.daemonsets = {}  # path -> object
        self.nodes = {}  # path -> object
        self.log = {"pods": [], "namespaces": [], "configmaps": []}  # (version, type, object)
        self.watchers = []
        self.httpd = None

    # ---- life ----

    def start(self):
        server = self

        class Handler(_Handler):
            api = server

        with inside(self.netns):
            self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.directory}/server.crt", f"{self.directory}/server.key")
        self.httpd.socket = context.wrap_socket(
            self.httpd.socket, server_side=True, do_handshake_on_connect=False
        )
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()

    def start_api(self):
        self.start()

    def stop_api(self):
        """Nobody listens any more, and what was open is cut."""
        if self.httpd:
            self.httpd.shutdown()
            self.httpd.server_close()
            self.httpd = None
        self.cut()

    stop = stop_api

    # ---- misbehaviour ----

    def cut(self):
        """Resets all watches."""
        with self.condition:
            watchers, self.watchers = self.watchers, []
        for w in watchers:
            w.broken = True
            with contextlib.suppress(OSError):
                w.connection.shutdown(socket.SHUT_RDWR)

    def say(self, kind, data):
        """Raw bytes to all watches of "pods" or "namespaces"."""
        with self.condition:
            watchers = [w for w in self.watchers if w.kind == kind]
            for w in watchers:
                w.extra.append(data)
            self.condition.notify_all()
        return len(watchers)

    def forget(self):
        """Versions of before are gone: who asks for them gets 410."""
        with self.condition:
            self.version += 1
            self.oldest = self.version
            for log in self.log.values():
                log.clear()

    def watching(self, kind):
        with self.condition:
            return sum(w.kind == kind for w in self.watchers)

    def asked(self, method, part):
        """The agent's requests of that kind."""
        with self.condition:
            return [p for who, m, p in self.requests if who == kube.AGENT and m == method and part in p]

    # ---- objects ----

    def put(self, kind, key, what, o):
        """With the lock held."""
        self.version += 1
        o["metadata"]["resourceVersion"] = str(self.version)
        if what == "DELETED":
            self.objects[kind].pop(key, None)
        else:
            self.objects[kind][key] = o
        if kind in self.log:
            self.log[kind].append((self.version, what, json.dumps(o)))
        self.condition.notify_all()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api = None

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.broken, self.extra, self.kind = False, [], None

    # ---- answers ----

    def answer(self, code, o):
        data = json.dumps(o).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def status(self, code, message):
        self.answer(
            code,
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code},
        )

    def allowed(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        who = kube.ADMIN if token == kube.ADMIN else kube.AGENT
        with self.api.condition:
            self.api.requests.append((who, self.command, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length) or b"{}")
        self.agent = who == kube.AGENT
        if token in self.api.tokens:
            return True
        self.status(401, "Unauthorized")
        return False

    def fault(self, kind):
        """True if a fault has answered."""
        with self.api.condition:
            f = self.api.faults[kind].pop(0) if self.agent and self.api.faults[kind] else None
        return bool(f) and f(self) is not False

    # ---- methods ----

    def do_GET(self):
        if not self.allowed():
            return
        if ("/daemonsets/" in self.path and self.fault("daemonset")) or (
            "/nodes/" in self.path and self.fault("node")
        ):
            return
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        pod, namespace, events = POD.match(url.path), NAMESPACE.match(url.path), EVENTS.match(url.path)
        with self.api.condition:
            if pod and pod[2]:
                found = self.api.objects["pods"].get((pod[1], pod[2]))
            elif namespace and namespace[1]:
                found = self.api.objects["namespaces"].get(namespace[1])
            elif events:
                name = query.get("fieldSelector", "").rpartition("=")[2]
                found = {
                    "items": [
                        e
                        for (n, _), e in self.api.objects["events"].items()
                        if n == events[1] and e["involvedObject"]["name"] == name
                    ]
                }
            else:
                found = self.api.daemonsets.get(url.path) or self.api.nodes.get(url.path)
            found = json.loads(json.dumps(found))
        configmap = CONFIGMAP.match(url.path)
        if url.path in ("/api/v1/pods", "/api/v1/namespaces") or (configmap and not configmap[2]):
            kind = url.path.rpartition("/")[2]
            if configmap:
                query["namespace"] = configmap[1]
            self.watch(kind, query) if query.get("watch") else self.list(kind, query)
        elif found:
            self.answer(200, found)
        else:
            self.status(404, f"{url.path} not found")

    def selected(self, kind, query, o):
        field, _, value = query.get("fieldSelector", "").partition("=")
        if kind == "configmaps":
            assert field == "metadata.name", "the role names one ConfigMap, so others cannot be listed"
            return o["metadata"]["name"] == value and o["metadata"]["namespace"] == query["namespace"]
        return (
            kind != "pods" or not field or (field == "spec.nodeName" and o["spec"].get("nodeName") == value)
        )

    def list(self, kind, query):
        if self.fault("configmaps" if kind == "configmaps" else "list"):
            return
        api = self.api
        with api.condition:
            items = [
                o for _, o in sorted(api.objects[kind].items(), key=str) if self.selected(kind, query, o)
            ]
            first, version = map(int, query.get("continue", f"0.{api.version}").split("."))
            expired = version < api.oldest
            page = min(int(query.get("limit") or len(items) or 1), api.page or 10**9)
            metadata = {"resourceVersion": str(version)}
            if first + page < len(items):
                metadata["continue"] = f"{first + page}.{version}"
            body = json.loads(json.dumps({"metadata": metadata, "items": items[first : first + page]}))
        if expired:
            self.status(410, "The provided continue parameter is too old")
        else:
            self.answer(200, body)

    def line(self, what, o):
        data = (json.dumps({"type": what, "object": o}) + "\n").encode()
        self.chunk(data)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def watch(self, kind, query):
        if kind != "configmaps" and self.fault("watch"):
            return
        api, seen = self.api, int(query["resourceVersion"])
        end = time.monotonic() + float(query.get("timeoutSeconds", 300))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if seen < api.oldest:
            self.line("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
            self.chunk(b"")
            return
        self.kind = kind
        with api.condition:
            api.watchers.append(self)
        try:
            while time.monotonic() < end and not self.broken:
                with api.condition:
                    if not self.extra and not any(v > seen for v, _, _ in api.log[kind]):
                        api.condition.wait(api.bookmarks)
                    news = [(v, t, json.loads(o)) for v, t, o in api.log[kind] if v > seen]
                    extra, self.extra, now = self.extra, [], api.version
                for data in extra:
                    self.chunk(data)
                for version, what, o in news:
                    seen = version
                    if self.selected(kind, query, o):
                        self.line(what, o)
                if not news and not extra and query.get("allowWatchBookmarks") and now >= seen:
                    seen = now
                    self.line("BOOKMARK", {"kind": kind, "metadata": {"resourceVersion": str(now)}})
                    api.bookmarked[kind] = now
            if not self.broken:
                self.chunk(b"")
        except OSError:
            pass
        finally:
            with api.condition:
                if self in api.watchers:
                    api.watchers.remove(self)
        self.close_connection = True

    def do_POST(self):
        if not self.allowed():
            return
        api, o = self.api, self.body
        pod, namespace, events = POD.match(self.path), NAMESPACE.match(self.path), EVENTS.match(self.path)
        configmap = CONFIGMAP.match(self.path)
        if events and self.fault("event"):
            return
        kind = "pods" if pod else "namespaces" if namespace else "configmaps" if configmap else "events"
        where = None if namespace else (pod or configmap or events)[1]
        name = o["metadata"]["name"]
        key = name if namespace else (where, name)
        with api.condition:
            exists = key in api.objects[kind]
            if not exists:
                o["metadata"].setdefault("uid", str(uuid.uuid4()))
                api.put(kind, key, "ADDED", o)
            o = json.loads(json.dumps(o))
        if exists:
            self.status(409, f"{name} already exists")
        else:
            self.answer(201, o)

    def do_PATCH(self):
        if not self.allowed():
            return
        api = self.api
        if "/daemonsets/" in self.path:
            self.patch_daemonset()
            return
        pod, namespace, events = POD.match(self.path), NAMESPACE.match(self.path), EVENTS.match(self.path)
        configmap = CONFIGMAP.match(self.path)
        if (pod and self.fault("patch")) or (events and self.fault("event")):
            return
        kind = "pods" if pod else "namespaces" if namespace else "configmaps" if configmap else "events"
        key = namespace[1] if namespace else (pod or configmap or events).groups()[:2]
        uid = self.body.get("metadata", {}).get("uid")
        with api.condition:
            old = api.objects[kind].get(key)
            o = json.loads(json.dumps(old)) if old else None
            conflict = o and uid and uid != o["metadata"]["uid"]
            if o and not conflict:
                merge(o, self.body)
                if o != old:
                    api.put(kind, key, "MODIFIED", o)
                o = json.loads(json.dumps(o))
        if not o:
            self.status(404, "not found")
        elif conflict:
            self.status(409, "Precondition failed: UID in precondition does not match")
        else:
            self.answer(200, o)

    def patch_daemonset(self):
        if self.fault("daemonset"):
            return
        with self.api.condition:
            found = self.api.daemonsets.get(self.path)
            if found:
                merge(found, self.body)
            found = json.loads(json.dumps(found))
        self.answer(200, found) if found else self.status(404, f"{self.path} not found")

    def delete_daemonset(self):
        """It goes once its pods are gone, if that was asked for; a test takes it away then."""
        if self.fault("daemonset"):
            return
        foreground = self.body.get("propagationPolicy") == "Foreground"
        with self.api.condition:
            found = self.api.daemonsets.get(self.path)
            if found and foreground:
                found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            elif found:
                del self.api.daemonsets[self.path]
            found = json.loads(json.dumps(found))
        if found:
            self.answer(202 if foreground else 200, found)
        else:
            self.status(404, f"{self.path} not found")

    def do_DELETE(self):
        if not self.allowed():
            return
        api = self.api
        if "/daemonsets/" in self.path:
            self.delete_daemonset()
            return
        pod, namespace, configmap = (p.match(self.path) for p in (POD, NAMESPACE, CONFIGMAP))
        kind, key = (
            ("namespaces", namespace[1])
            if namespace
            else (
                "pods" if pod else "configmaps",
                (pod or configmap).groups()[:2],
            )
        )
        with api.condition:
            o = api.objects[kind].get(key)
            if o and pod and self.body.get("gracePeriodSeconds"):
                o = json.loads(json.dumps(o))
                o["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                api.put(kind, key, "MODIFIED", o)
            elif o:
                api.put(kind, key, "DELETED", o)
        self.answer(200 if o else 404, {})


def refused(status):
    """An answer, for faults."""
    return [lambda handler: handler.status(status, "no")]
