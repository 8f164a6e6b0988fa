# SPDX-License-Identifier: Apache-2.0
"""Applications of the pods: small Python programs, run in a pod by its server(), python() and
popen()."""

import re

from support.system import wait_for

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

# Whether each address is reached within two seconds: yes, end, or the error.
REACH = """
import socket, sys
for to in sys.argv[1:]:
    try:
        s = socket.create_connection((to, 8080), timeout=2)
        s.sendall(b"x")
        print("yes" if s.recv(1) == b"x" else "end")
    except OSError as e:
        print(type(e).__name__)
"""

# Says what came back and from where it was, or how it ended.
ASK = """
import errno, socket, sys
to, port, word, source = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4]
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
s.settimeout(5)
try:
    if source:
        s.bind((source, 0))
    s.connect((to, port))
    s.sendall(word)
    got = b""
    while len(got) < len(word):
        d = s.recv(65536)
        if not d:
            break
        got += d
    print(got.decode() or "end", s.getpeername()[0])
except OSError as e:
    print(errno.errorcode.get(e.errno, type(e).__name__))
"""

# Many connections to one place, all open at once; each asks and is answered.
TOGETHER = """
import socket, sys
all = [socket.create_connection((sys.argv[1], 8080), timeout=10) for _ in range(int(sys.argv[2]))]
for s in all:
    s.settimeout(10)
    s.sendall(b"x")
print(sum(s.recv(1) == b"x" for s in all))
"""

# Sends without end to whoever comes.
SOURCE = """
import socket, sys, threading
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
def serve(c):
    try:
        while True:
            c.sendall(b"x" * 65536)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""

# Answers with its name; to a POST with the checksum of what it got; to /endless with bytes as long as anybody
# takes them.
HTTP_APP = """
import hashlib, http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def answer(self):
        if self.path == "/endless":
            return self.endless()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        text = (hashlib.sha256(body).hexdigest() if self.command == "POST" else sys.argv[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        print("SERVED", self.client_address[0], self.command, flush=True)
    def endless(self):
        self.send_response(200)
        self.send_header("content-length", str(1 << 50))
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(65536))
        except OSError as e:
            print("ENDED", type(e).__name__, flush=True)
            self.close_connection = True
    do_GET = do_POST = do_DELETE = answer
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 256
server = Server(("::", 8080), Handler)
print("READY", flush=True)
server.serve_forever()
"""

# So many requests, each on a connection of its own: a list of [status, body], or of [0, the error].
HTTP_REQUESTS = """
import http.client, json, sys
host, port, count, method, headers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5])
answers = []
for i in range(count):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, "/", headers=headers)
        answer = connection.getresponse()
        answers.append([answer.status, answer.read().decode()])
    except (OSError, http.client.HTTPException) as e:
        answers.append([0, repr(e)])
    connection.close()
print(json.dumps(answers))
"""

# What programs that try something forbidden begin with; arguments: address, port, secret.
# What the scripts of this file begin with. echo() says what came back, or how it ended.
PRELUDE = """
import errno, os, select, socket, struct, sys, time
TO, PORT, SECRET = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
V6 = ":" in TO
SO_BINDTODEVICE, SO_MARK, IP_TRANSPARENT, IPV6_TRANSPARENT = 25, 36, 19, 75
def tcp(family=None):
    s = socket.socket(family or (socket.AF_INET6 if V6 else socket.AF_INET), socket.SOCK_STREAM)
    s.settimeout(20)
    return s
def echo(s, message=SECRET):
    try:
        s.sendall(message)
        got = b""
        while len(got) < len(message):
            c = s.recv(65536)
            if not c:
                return "end"
            got += c
        return got.decode()
    except ConnectionResetError:
        return "reset"
    except OSError as e:
        return errno.errorcode.get(e.errno, type(e).__name__)
def attempt(s, to):
    try:
        s.connect(to)
    except OSError as e:
        return errno.errorcode.get(e.errno, type(e).__name__)
    return "connected"
"""

TRY = """
s = tcp(); s.settimeout(2)
r = attempt(s, (TO, PORT))
print(r if r != "connected" else echo(s))
"""


def ask(pod, to, word="hello", source="", port=8080):
    return pod.python(ASK, to, port, word, source).strip()


def served(pod, count):
    """Until ECHO in the pod has got so many connections more."""

    def seen():
        return sum(p.text().count("FROM ") for p in pod.processes)

    before = seen()
    wait_for(lambda: seen() >= before + count, f"{pod.name} to get {count} connections", 60)


def progress(p):
    """Of a STREAM."""
    found = re.findall(r"N (\d+)", p.text())
    return int(found[-1]) if found else 0


def goes_on(p, what):
    start = progress(p)
    wait_for(lambda: progress(p) > start + 20 or not p.alive(), what)
    assert p.alive(), f"{what}: {p.text()[-300:]}"
