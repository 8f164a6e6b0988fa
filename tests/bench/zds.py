#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The node agent's side of the workload discovery socket that stock node proxies connect to: one protobuf
message a datagram, the pod's network namespace beside it.

    zds.py SOCKET UID,NAME,NAMESPACE,ACCOUNT,NETNS_PATH...

Each proxy that connects is told of all pods and then that this was all; then the connection is kept. Prints
LISTENING, and SNAPSHOT N with the number of pods that were acknowledged.
"""

import os
import select
import socket
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support.proxies.zds import Connection, Refused, add_message


def introduce(connection, pods):
    """Tells a proxy of the pods. Returns how many it acknowledged."""
    connection.hello()
    good = 0
    for uid, name, namespace, account, path in pods:
        netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            connection.ask(add_message(uid, name, namespace, account), [netns])
            good += 1
        except Refused as e:
            print(f"{uid} was refused: {e}", flush=True)
        finally:
            os.close(netns)
    connection.snapshot_sent()
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
                    print(f"SNAPSHOT {introduce(Connection(connection), pods)}", flush=True)
                    connections.append(connection)
                except (OSError, AssertionError) as e:
                    print(f"lost a proxy: {e}", flush=True)
                    connection.close()
            elif not ready.recv(1024):
                connections.remove(ready)
                ready.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    serve(sys.argv[1], [tuple(argument.split(",")) for argument in sys.argv[2:]])
