# SPDX-License-Identifier: Apache-2.0
"""A peer of the agent that speaks the proxy's side of the local protocol by hand, for test_agent.py: it can
be silent, refuse, lie and die. It is a program of its own, for the agent tells proxies apart by process.

Reads commands (JSON lines) on stdin, writes what it sees (JSON lines) on stdout. To each connection that one
of its pods' listeners gives it says "TAG LISTENER\n" and closes, or keeps it open.
"""

import array
import json
import os
import selectors
import socket
import sys

LISTENERS = ("outbound", "inbound", "hbone")


class Proxy:
    def __init__(self, tag, path):
        self.tag, self.path = tag, path
        self.socket = None
        self.pods = {}  # uid -> {cookie, generation, fds, draining}
        self.accepting, self.keep, self.mute, self.refuse, self.draining = True, False, False, None, False
        self.resumes, self.ending, self.ready = True, False, True
        self.report_drained = True
        self.kept = []
        self.sel = selectors.DefaultSelector()
        self.sel.register(sys.stdin, selectors.EVENT_READ, self.on_command)

    def tell(self, **event):
        print(json.dumps(event), flush=True)

    def send(self, message, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([message if isinstance(message, bytes) else json.dumps(message).encode()], rights)

    def connect(self, hello=True, lie=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(self.path)
        self.sel.register(self.socket, selectors.EVENT_READ, self.on_agent)
        if not hello:
            return
        self.send({"op": "proxy-hello", "pid": os.getpid(), "version": "by hand"})
        for uid, pod in self.pods.items():
            fds = list(pod["fds"])
            if lie == "listener":
                fds[1] = socket.create_server(("127.0.0.1", 0)).detach()  # listens, but not in the pod
            self.send(
                {
                    "op": "pod-held",
                    "uid": uid,
                    "cookie": pod["cookie"],
                    "generation": pod["generation"],
                    "draining": pod["draining"],
                },
                fds,
            )
        self.send({"op": "held-end", "draining": self.draining, "ending": self.ending})

    def disconnect(self):
        if self.socket:
            self.sel.unregister(self.socket)
            self.socket.close()
            self.socket = None

    def drop(self, uid):
        pod = self.pods.pop(uid, None)
        for fd in pod["fds"] if pod else ():
            if fd in pod["watched"]:
                self.sel.unregister(fd)
            os.close(fd)

    def add(self, message, fds):
        uid = message["uid"]
        self.drop(uid)
        pod = {
            "cookie": message["cookie"],
            "generation": message["generation"],
            "fds": fds,
            "draining": False,
            "watched": set(),
        }
        self.pods[uid] = pod
        for fd in fds[1:]:
            os.set_blocking(fd, False)
        if self.accepting:
            self.watch(pod)

    def watch(self, pod):
        for fd, name in zip(pod["fds"][1:], LISTENERS, strict=False):
            if fd not in pod["watched"]:
                self.sel.register(
                    fd, selectors.EVENT_READ, lambda fd=fd, name=name: self.on_connection(fd, name)
                )
                pod["watched"].add(fd)

    def accept(self, on):
        self.accepting = on
        for pod in self.pods.values():
            if on:
                self.watch(pod)
            for fd in () if on else tuple(pod["watched"]):
                self.sel.unregister(fd)
                pod["watched"].discard(fd)

    def on_connection(self, fd, name):
        listener = socket.socket(fileno=os.dup(fd))
        try:
            c, peer = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # it was closed from outside; a new one comes
            self.sel.unregister(fd)
            for pod in self.pods.values():
                pod["watched"].discard(fd)
            return
        finally:
            listener.close()
        self.tell(event="connection", listener=name, local=c.getsockname()[:2], peer=peer[:2])
        c.sendall(f"{self.tag} {name}\n".encode())
        if self.keep:
            self.kept.append(c)
        else:
            c.close()

    def on_agent(self):
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 8)
        except OSError:
            data, fds = b"", []
        if not data:
            self.disconnect()
            self.tell(event="disconnected")
            return
        message = json.loads(data)
        self.tell(event="message", fds=len(fds), **message)
        if self.mute or message["op"] == "error":
            for fd in fds:
                os.close(fd)
            return
        ack = {"op": "ack", "seq": message["seq"]}
        if message["op"] == "pod-add" and self.refuse:
            ack.update(reason=self.refuse, error="made to refuse")
            for fd in fds:
                os.close(fd)
        elif message["op"] == "pod-add":
            self.add(message, list(fds))
        elif message["op"] == "pod-del":
            self.drop(message["uid"])
        elif message["op"] == "setup":
            os.close(fds[0])
        elif message["op"] == "drain":
            self.draining = True
            self.accept(False)
        elif message["op"] == "resume" and not self.resumes:
            ack.update(reason="message_invalid", error="unknown op")
        elif message["op"] == "resume":
            self.draining = False
            self.accept(not self.ending)
        elif message["op"] == "snapshot-end" and not self.ready:
            ack["ready"] = False
        self.send(ack)
        if message["op"] == "pod-drain":
            if message["uid"] in self.pods:
                self.pods[message["uid"]]["draining"] = True
            if self.report_drained:
                self.send({"op": "pod-drained", "uid": message["uid"]})

    def on_command(self):
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        command = json.loads(line)
        what = command.pop("do")
        if what == "connect":
            self.connect(**command)
        elif what == "disconnect":
            self.disconnect()
        elif what == "set":
            for name, value in command.items():
                setattr(self, name, value)
        elif what == "raw":
            self.send(command["text"].encode())
        elif what == "drained":
            self.send({"op": "pod-drained", "uid": command["uid"]})
        elif what == "get-ready":
            self.ready = True
            self.send({"op": "ready"})
        elif what == "terminate":
            self.ending = True
            self.accept(False)
            if self.socket:
                self.send({"op": "ending"})
        self.tell(event="did", what=what)

    def run(self):
        while True:
            for key, _ in self.sel.select():
                if key.fileobj in self.sel.get_map():
                    key.data()


if __name__ == "__main__":
    Proxy(sys.argv[1], sys.argv[2]).run()
