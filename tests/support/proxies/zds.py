# SPDX-License-Identifier: Apache-2.0
"""The agent's side of ZDS, the socket on which a stock CNI agent tells a node proxy of its pods. A test drives it message by
message. Nothing here shares code with the proxy."""

import array
import contextlib
import os
import socket

from support.protobuf import only, text

HELLO = b"\x08\x01"
ACKNOWLEDGED = b"\x0a\x00"
SNAPSHOT_SENT = b"\x1a\x00"
PATIENCE = 10  # seconds; a stock agent waits five


def add_message(uid, name, namespace, account):
    return text(1, text(1, uid) + text(2, text(1, name) + text(2, namespace) + text(3, account)))


def del_message(uid):
    return text(2, text(2, uid))


def keep_message(uid):
    return text(5, text(1, uid))


class Refused(Exception):
    """A negative answer; the text is the proxy's."""


class Connection:
    """One proxy that has connected."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(PATIENCE)

    def hello(self):
        assert self.sock.recv(1024) == HELLO

    def send(self, message, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([message], rights)

    def answer(self):
        """None for yes, else the text of the refusal."""
        data = self.sock.recv(1024)
        assert data, "the proxy has hung up instead of answering"
        if data == ACKNOWLEDGED:
            return None
        return only(1, only(1, data)).decode()

    def ask(self, message, fds=()):
        self.send(message, fds)
        error = self.answer()
        if error is not None:
            raise Refused(error)

    def add(self, pod, uid=None, netns=None, account=None):
        fd = os.open(netns or f"/run/netns/{pod.netns}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.ask(add_message(uid or pod.uid, pod.name, pod.namespace, account or pod.account), [fd])
        finally:
            os.close(fd)

    def delete(self, uid):
        self.ask(del_message(uid))

    def keep(self, uid):
        self.ask(keep_message(uid))

    def snapshot_sent(self):
        self.ask(SNAPSHOT_SENT)

    def ended(self, seconds=PATIENCE):
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1024) == b""
        except ConnectionResetError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)

    def close(self):
        self.sock.close()


class CniAgent:
    def __init__(self, path):
        self.path, self.connections = path, []
        self.listener = None
        self.listen()

    def listen(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(8)

    def accept(self, seconds=PATIENCE):
        self.listener.settimeout(seconds)
        connection = Connection(self.listener.accept()[0])
        self.connections.append(connection)
        connection.hello()
        return connection

    def close(self):
        for connection in self.connections:
            connection.close()
        self.connections = []
        self.listener.close()
