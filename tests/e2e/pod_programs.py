# SPDX-License-Identifier: Apache-2.0
"""Applications of the pods: small Python programs, run in a pod by mesh.Pod.server(), python() and
popen()."""

# Sends back what it gets, on the port of its argument; tells who has come, and how it ended if not well.
ECHO = """
import socket, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1])))
s.listen(512)
print("READY", flush=True)
def serve(c, a):
    print("FROM", a[0], a[1], flush=True)
    try:
        while True:
            d = c.recv(65536)
            if not d:
                break
            c.sendall(d)
        c.shutdown(socket.SHUT_WR)
        c.close()
    except OSError as e:
        print("ERROR", type(e).__name__, flush=True)
while True:
    c, a = s.accept()
    threading.Thread(target=serve, args=(c, a), daemon=True).start()
"""

# Sends its argument, ends its direction, and prints what comes back.
ONE_SHOT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.sendall(sys.argv[3].encode())
s.shutdown(socket.SHUT_WR)
d = b""
while True:
    c = s.recv(65536)
    if not c:
        break
    d += c
print(d.decode(), end="")
"""

# Sends so many MiB of a generator's bytes, reads the checksum of what the other side got.
SEND = """
import hashlib, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
h = hashlib.sha256()
block = bytes((i * 131 + i // 257) & 255 for i in range(1 << 20))
for i in range(int(sys.argv[3])):
    b = bytes([i & 255]) + block[1:]
    h.update(b)
    s.sendall(b)
s.shutdown(socket.SHUT_WR)
got = b""
while len(got) < 64:
    c = s.recv(64)
    if not c:
        break
    got += c
print("same" if got.decode() == h.hexdigest() else "DIFFERENT", flush=True)
"""

# Reads to the end and answers with the checksum.
SINK = """
import hashlib, socket, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1])))
s.listen(128)
print("READY", flush=True)
def serve(c):
    h = hashlib.sha256()
    while True:
        d = c.recv(1 << 18)
        if not d:
            break
        h.update(d)
    c.sendall(h.hexdigest().encode())
    c.close()
while True:
    c, a = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"""

# Speaks first.
SERVER_FIRST = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.sendall(b"220 welcome\\r\\n")
    d = c.recv(100)
    c.sendall(b"250 " + d)
    c.close()
"""

# A connection that lives, and says how far it is.
STREAM = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=60)
n = 0
while True:
    m = b"%08d" % n
    s.sendall(m)
    d = b""
    while len(d) < 8:
        c = s.recv(8 - len(d))
        if not c:
            print("BROKEN", flush=True); sys.exit(1)
        d += c
    n += 1
    if n % 10 == 0:
        print("N", n, flush=True)
    time.sleep(0.01)
"""
