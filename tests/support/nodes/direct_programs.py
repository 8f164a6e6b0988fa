# SPDX-License-Identifier: Apache-2.0
"""Programs of pods whose connections are counted to the byte, or take several ways one after the other."""

# Reads so many bytes, sends so many, and ends the connection first, after the other side, or with a reset.
PEER = """
import socket, struct, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
s.bind(("::", int(sys.argv[1])))
s.listen(512)
print("READY", flush=True)
def serve(c):
    wanted, answer, end = c.makefile("rb", 0).readline().split()
    left = int(wanted)
    while left:
        left -= len(c.recv(min(left, 65536)))
    c.sendall(bytes(int(answer)))
    if end == b"reset":
        c.recv(1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif end == b"last":
        while c.recv(65536):
            pass
    c.close()
while True:
    c, a = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"""

CLIENT = """
import socket, struct, sys
way, address, port, sent, received, end = sys.argv[1:7]
peer_end = {"first": "last", "last": "first", "half": "last", "reset": "last", "peer-reset": "reset"}[end]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM, 262 if way == "mptcp" else 0)
head = f"{sent} {received} {peer_end}\\n".encode()
if way == "fastopen":
    s.sendto(head, socket.MSG_FASTOPEN, (address, int(port)))
else:
    s.connect((address, int(port)))
    s.sendall(head)
s.sendall(bytes(int(sent)))
if end == "half":
    s.shutdown(socket.SHUT_WR)
left = int(received)
while left:
    left -= len(s.recv(min(left, 65536)))
if end == "peer-reset":
    s.sendall(b"!")
    try:
        s.recv(1)
    except ConnectionResetError:
        print("reset", end=" ")
elif end in ("last", "half"):
    assert s.recv(1) == b""
elif end == "reset":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
print("done", len(head))
"""

# Connects one socket to one place after the other, and says how each ended.
ONE_SOCKET = """
import errno, socket, sys
s = socket.socket(socket.AF_INET6)
for to in sys.argv[1:]:
    address, port = to.rsplit("#", 1)
    r = s.connect_ex((address, int(port)))
    print(errno.errorcode.get(r, r), flush=True)
    if r == 0:
        # as connect() with AF_UNSPEC, which Python cannot do
        import ctypes
        ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)
"""
