#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The node agent's side of the workload discovery socket that stock node proxies connect to: one protobuf
message a datagram, the pod's network namespace beside it.

    zds.py SOCKET UID,NAME,NAMESPACE,ACCOUNT,NETNS_PATH...

Each proxy that connects is told of all pods and then that this was all; then the connection is kept. Prints
LISTENING, and SNAPSHOT N with the number of pods that were acknowledged.
"""

import array
import os
import select
import socket
import sys

import wire

HELLO = b"\x08\x01"  # version 1
ACKNOWLEDGED = b"\x0a\x00"  # an empty Ack
SNAPSHOT_SENT = b"\x1a\x00"
PATIENCE = 10  # seconds for an answer


def added(uid, name, namespace, account):
    info = wire.text(1, name) + wire.text(2, namespace) + wire.text(3, account)
    return wire.text(1, wire.text(1, uid) + wire.text(2, info))


def introduce(connection, pods):
    """Tells a proxy of the pods. Returns how many it acknowledged."""
    connection.settimeout(PATIENCE)
    hello = connection.recv(1024)
    if hello != HELLO:
        print(f"unexpected hello {hello!r}", flush=True)
    good = 0
    for uid, name, namespace, account, path in pods:
        netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [netns]))]
            connection.sendmsg([added(uid, name, namespace, account)], rights)
        finally:
            os.close(netns)
        answer = connection.recv(1024)
        if answer == ACKNOWLEDGED:
            good += 1
        else:
            print(f"{uid} was refused: {answer!r}", flush=True)
    connection.send(SNAPSHOT_SENT)
    connection.recv(1024)
    return good


def serve(path, pods):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(4)
    print("LISTENING", flush=True)
    connections = []
    while True:
        for ready in select.select([listener, *connections], [], [])[0]:
            if ready is listener:
                connection, _ = listener.accept()
                try:
                    print(f"SNAPSHOT {introduce(connection, pods)}", flush=True)
                    connections.append(connection)
                except OSError as e:
                    print(f"lost a proxy: {e}", flush=True)
                    connection.close()
            elif not ready.recv(1024):
                connections.remove(ready)
                ready.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    serve(sys.argv[1], [tuple(argument.split(",")) for argument in sys.argv[2:]])
