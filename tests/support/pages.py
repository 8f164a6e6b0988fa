# SPDX-License-Identifier: Apache-2.0
"""HTTP pages over sockets that are connected already: in another namespace, or of the Unix kind."""

from support.system import Failed


def get(connection, path, host="localhost"):
    """(status, body) of a GET. The socket is closed."""
    with connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := connection.recv(1 << 20):
            parts.append(part)
    return answer(b"".join(parts))


def answer(data):
    """(status, body) of all that came; ConnectionError where nothing has."""
    if not data:
        raise ConnectionError("the connection was closed without an answer")
    head, _, body = data.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        body = joined(body)
    return int(head.split(b" ", 2)[1]), body


def joined(chunks):
    """The body that came in these chunks, to its end."""
    body, at = [], 0
    while True:
        line = chunks.find(b"\r\n", at)
        if line < 0:
            raise Failed(f"the body was cut after {len(chunks)} bytes")
        length = int(chunks[at:line], 16)
        if not length:
            if chunks[line:] != b"\r\n\r\n":
                raise Failed(f"the body ends with {chunks[line:][:100]!r}")
            return b"".join(body)
        body.append(chunks[line + 2 : line + 2 + length])
        at = line + 4 + length
