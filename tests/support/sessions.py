# SPDX-License-Identifier: Apache-2.0
"""Sessions that would be missed: databases of the distribution in a pod, and their own clients in another one. A session has
what only the connection that it began with has, and says so when it is asked. A long download as well."""

import contextlib
import glob
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

from support.system import run, wait_for, wait_for_process


class Dialog:
    """A client that takes a line and answers with one."""

    def __init__(self, client, *argv):
        self.process = client.pipe(
            *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self):
        return self.process.stdout.readline().strip()

    def end(self):
        """No matter what it says yet."""
        self.process.kill()
        self.process.communicate(timeout=20)


class Redis:
    """A server without a file, in a pod."""

    PORT = 6379

    def __init__(self, pod):
        argv = ["redis-server", "--port", self.PORT, "--bind", "*", "-::*", "--protected-mode", "no"]
        self.process = pod.popen(*argv, "--save", "", "--dir", "/")
        self.process.wait_for_text("Ready to accept connections")

    def stop(self):
        self.process.stop()


class RedisSession:
    """A transaction that has been begun, and a channel that is listened to."""

    def __init__(self, client, address):
        argv = ["redis-cli", "-h", address, "-p", str(Redis.PORT)]
        self.count = 0
        self.dialog, self.speaker, self.listener = (
            Dialog(client, *argv, *more) for more in ((), (), ("SUBSCRIBE", "news"))
        )
        assert [self.listener.heard() for _ in range(3)] == ["subscribe", "news", "1"]
        self.ids = self.dialog.say("CLIENT ID"), self.speaker.say("CLIENT ID")
        assert all(i.isdigit() for i in self.ids), self.ids
        self.begin()

    def begin(self):
        assert self.dialog.say("MULTI") == "OK"
        assert self.dialog.say("INCR counter") == "QUEUED"

    def goes_on(self):
        """redis-cli would connect anew and say nothing of it: the transaction would be unknown, the number another one."""
        self.count += 1
        assert self.dialog.say("CLIENT ID") == "QUEUED"
        assert (self.dialog.say("EXEC"), self.dialog.heard()) == (str(self.count), self.ids[0])
        assert self.speaker.say(f"PUBLISH news word-{self.count}") == "1"
        assert [self.listener.heard() for _ in range(3)] == ["message", "news", f"word-{self.count}"]
        assert self.speaker.say("CLIENT ID") == self.ids[1]
        self.begin()

    def end(self):
        for d in (self.dialog, self.speaker, self.listener):
            d.end()


def postgres_program(name):
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    assert found, f"there is no {name}: the package postgresql is not installed"
    return found[-1]


class Postgres:
    """A server in a pod, with a directory of its own; it does not run as root."""

    PORT = 5432

    def __init__(self, pod):
        user = pwd.getpwnam("postgres")
        self.directory = tempfile.mkdtemp(prefix=f"bruma-{os.getpid()}-postgres-")
        os.chown(self.directory, user.pw_uid, user.pw_gid)
        data = f"{self.directory}/data"
        # What it shares between its processes goes with them.
        as_user = ["unshare", "--ipc", "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
        as_user += ["--clear-groups", "--pdeathsig", "KILL"]
        run(
            [*as_user, postgres_program("initdb"), "--no-sync", "--auth=trust", "--locale=C", "-D", data],
            cwd=self.directory,
        )
        with open(f"{data}/pg_hba.conf", "a") as f:
            f.write("host all all all trust\n")
        settings = {
            "listen_addresses": "*",
            "port": self.PORT,
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "4MB",
            "dynamic_shared_memory_type": "mmap",
        }
        argv = [*as_user, postgres_program("postgres"), "-D", data]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        self.process = pod.popen(*argv)
        wait_for_process(
            self.process,
            lambda: "database system is ready to accept connections" in self.process.text(),
            "postgres to be ready",
        )

    def stop(self):
        self.process.kill(signal.SIGINT)  # which waits for no session
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresSession:
    """A transaction that is held open, with a table that only it has, in a server process that is its own."""

    def __init__(self, client, address):
        argv = [postgres_program("psql"), "-XqAt", "-h", address, "-p", str(Postgres.PORT)]
        self.dialog = Dialog(client, *argv, "-U", "postgres")
        self.count = 0
        self.say("BEGIN; CREATE TEMPORARY TABLE kept (n int) ON COMMIT DROP; SELECT 'begun';", "begun")
        self.is_that = "SELECT pg_backend_pid(), pg_current_xact_id();"
        self.who = self.dialog.say(self.is_that)
        assert self.who.replace("|", "").isdigit(), self.who

    def say(self, line, answer):
        said = self.dialog.say(line)
        assert said == answer, said

    def goes_on(self):
        self.count += 1
        self.say(f"INSERT INTO kept VALUES ({self.count}) RETURNING n;", str(self.count))
        self.say("SELECT count(*) FROM kept;", str(self.count))
        self.say(self.is_that, self.who)
        # Much in one answer, of which each byte is known.
        self.say("SELECT repeat('0123456789', 200000);", "0123456789" * 200000)

    def end(self):
        self.say("COMMIT; SELECT 'done';", "done")
        self.dialog.end()


@contextlib.contextmanager
def databases(pod):
    """Both, in a pod."""
    with contextlib.ExitStack() as stack:
        for kind in (Redis, Postgres):
            stack.callback(kind(pod).stop)
        yield


BLOCKS, BLOCK = 4096, 65536

# One answer of so many blocks, slowly until the file of its argument is there.
SLOW_HTTP = """
import hashlib, http.server, os, socket, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(int(sys.argv[3]) * int(sys.argv[4])))
        self.end_headers()
        for n in range(int(sys.argv[3])):
            if not os.path.exists(sys.argv[2]):
                time.sleep(0.1)
            self.wfile.write(hashlib.shake_128(b"%d" % n).digest(int(sys.argv[4])))
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
server = Server(("::", int(sys.argv[1])), Handler)
print("READY", flush=True)
server.serve_forever()
"""


class Download:
    """By curl, over minutes if nobody ends it; of each byte is known what it is."""

    PORT = 8088

    def __init__(self, client, server, directory):
        self.path, self.hurry = f"{directory}/download-{client.name}", f"{directory}/hurry-{client.name}"
        server.server(SLOW_HTTP, self.PORT, self.hurry, BLOCKS, BLOCK)
        url = f"http://{server.ip}:{self.PORT}/"
        self.process = client.popen("curl", "-sS", "--noproxy", "*", "-m", "600", "-o", self.path, url)
        self.goes_on()

    def size(self):
        return os.path.getsize(self.path)

    def goes_on(self):
        """It must not have ended before what it is to live through."""
        self.process.check()
        before = self.size() if os.path.exists(self.path) else 0
        wait_for(lambda: self.size() > before, "more of the download")

    def end(self):
        self.goes_on()
        with open(self.hurry, "w"):
            pass
        assert self.process.wait(120) == 0, self.process.text()
        told, true = hashlib.sha256(), hashlib.sha256()
        for n in range(BLOCKS):
            true.update(hashlib.shake_128(b"%d" % n).digest(BLOCK))
        with open(self.path, "rb") as f:
            while data := f.read(1 << 20):
                told.update(data)
        assert (self.size(), told.digest()) == (BLOCKS * BLOCK, true.digest())
