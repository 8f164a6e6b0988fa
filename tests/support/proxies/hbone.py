# SPDX-License-Identifier: Apache-2.0
"""An independent HBONE client and server: Python's h2 over Python's ssl. Nothing here shares code with the
proxy."""

import contextlib
import queue
import select
import socket
import ssl
import struct
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from support.network import inside


def context(server, cert, key, root):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    c.minimum_version = ssl.TLSVersion.TLSv1_3
    c.load_cert_chain(cert, key)
    c.load_verify_locations(root)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_REQUIRED
    c.set_alpn_protocols(["h2"])
    return c


class Connection(h2.connection.H2Connection):
    """h2 takes GOAWAY for the end of the connection. Streams that it does not refuse go on, and another may
    follow."""

    def _receive_goaway_frame(self, frame):
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]


class Client:
    """One tunnel. Not thread-safe: a test drives it step by step."""

    def __init__(self, address, cert, key, root, timeout=10, settings=True, sock=None, limit=None):
        """sock: connected already; then address is nobody's. limit: called with the context of TLS."""
        self.sock = sock or socket.create_connection(address, timeout=timeout)
        own = context(False, cert, key, root)
        if limit:
            limit(own)
        self.tls = own.wrap_socket(self.sock)
        self.h2 = Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="utf-8", validate_outbound_headers=False
            )
        )
        self.h2.initiate_connection()
        self.events = {}
        self.goaways = []
        self.closed = False
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.tls.sendall(data)

    def pump(self, until, seconds=10):
        """Reads until until() is true."""
        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.tls.settimeout(left)
            try:
                data = self.tls.recv(65536)
            except TimeoutError:
                return False
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return until()
            for e in self.h2.receive_data(data):
                if isinstance(e, h2.events.DataReceived) and e.flow_controlled_length:
                    with contextlib.suppress(h2.exceptions.ProtocolError):
                        self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
                if isinstance(e, h2.events.ConnectionTerminated):
                    self.goaways.append((e.error_code, e.last_stream_id))
                self.events.setdefault(getattr(e, "stream_id", 0) or 0, []).append(e)
            try:
                self.flush()
            except OSError:
                self.closed = True
                return until()
        return True

    def request(self, headers, end=False):
        sid = self.h2.get_next_available_stream_id()
        self.h2.send_headers(sid, headers, end_stream=end)
        self.flush()
        return sid

    def connect(self, authority, extra=()):
        return self.request([(":method", "CONNECT"), (":authority", authority), *extra])

    def say_goaway(self):
        """That it will serve nothing more, which it does not do anyway; it goes on itself."""
        self.tls.sendall(GoAwayFrame(0).serialize())

    def of(self, sid, kind):
        return [e for e in self.events.get(sid, []) if isinstance(e, kind)]

    def status(self, sid, seconds=10):
        """Status of the answer, or ("reset", code), or None."""
        self.pump(
            lambda: self.closed or self.of(sid, (h2.events.ResponseReceived, h2.events.StreamReset)), seconds
        )
        for e in self.events.get(sid, []):
            if isinstance(e, h2.events.ResponseReceived):
                return int(dict(e.headers)[":status"])
            if isinstance(e, h2.events.StreamReset):
                return ("reset", int(e.error_code))
        return None

    def headers(self, sid):
        return dict(self.of(sid, h2.events.ResponseReceived)[0].headers)

    def send(self, sid, data, end=False):
        at = 0
        while at < len(data):
            n = min(self.h2.local_flow_control_window(sid), self.h2.max_outbound_frame_size, len(data) - at)
            if n == 0:
                before = self.h2.local_flow_control_window(sid)
                assert self.pump(lambda: self.h2.local_flow_control_window(sid) > before, 60), "no credit"
                continue
            self.h2.send_data(sid, data[at : at + n])
            at += n
            self.flush()
        if end:
            self.h2.end_stream(sid)
            self.flush()

    def received(self, sid):
        return b"".join(e.data for e in self.of(sid, h2.events.DataReceived))

    def ended(self, sid):
        return bool(self.of(sid, h2.events.StreamEnded))

    def reset_code(self, sid):
        resets = self.of(sid, h2.events.StreamReset)
        return int(resets[0].error_code) if resets else None

    def close(self):
        with contextlib.suppress(OSError):
            self.tls.close()


class Tunnel:
    """A tunnel that a Server has accepted. One thread alone may use an SSL object, so others leave word with
    it."""

    def __init__(self, tls):
        self.tls, self.closed = tls, False
        self.bell, self.button = socket.socketpair()
        self.orders = queue.Queue()

    def do(self, function):
        """Calls function(self) in the tunnel's thread, and waits for it."""
        done = threading.Event()
        self.orders.put((function, done))
        with contextlib.suppress(OSError):
            self.button.send(b"x")
        assert done.wait(10)

    def read(self):
        while not self.tls.pending():
            ready, _, _ = select.select([self.tls, self.bell], [], [], 60)
            if self.bell not in ready:
                break
            self.bell.recv(1)
            function, done = self.orders.get()
            try:
                function(self)
            finally:
                done.set()
        return self.tls.recv(65536)

    def ended(self):
        self.closed = True
        while not self.orders.empty():
            self.orders.get()[1].set()
        self.bell.close()
        self.button.close()


def fin(conn):
    conn.tls.shutdown(socket.SHUT_RDWR)


def rst(conn):
    conn.tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.tls.close()


def close_notify(conn):
    with contextlib.suppress(OSError):
        conn.tls.unwrap()


def goaway(conn):
    conn.h2.close_connection()
    conn.tls.sendall(conn.h2.data_to_send())


class Server:
    """Accepts tunnels in a thread and answers each CONNECT by behaviour(server, connection, stream id,
    headers)."""

    def __init__(self, listener, cert, key, root, behaviour=None, max_streams=None):
        self.max_streams = max_streams
        self.listener, self.tls_context = listener, context(True, cert, key, root)
        self.behaviour = behaviour or Server.echo
        self.requests, self.connections, self.peers = [], [], []
        self.sockets, self.threads = [], []
        self.stopping = False
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    @staticmethod
    def echo(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "200")])

    def accept(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(sock,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, sock):
        sock.settimeout(30)
        try:
            tls = self.tls_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        self.sockets.append(tls)
        try:
            tls.do_handshake()
        except OSError:
            tls.close()
            return
        conn = Tunnel(tls)
        conn.h2 = Connection(
            h2.config.H2Configuration(
                client_side=False, header_encoding="utf-8", validate_inbound_headers=False
            )
        )
        conn.h2.initiate_connection()
        if self.max_streams:
            conn.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.max_streams})
        self.connections.append(conn)
        self.peers.append(tls.getpeercert())
        try:
            tls.sendall(conn.h2.data_to_send())
            while data := conn.read():
                for e in conn.h2.receive_data(data):
                    self.handle(conn, e)
                tls.sendall(conn.h2.data_to_send())
        except (OSError, ValueError, h2.exceptions.ProtocolError):
            pass
        finally:
            tls.close()
            conn.ended()

    def handle(self, conn, e):
        if isinstance(e, h2.events.RequestReceived):
            self.requests.append(dict(e.headers))
            self.behaviour(self, conn, e.stream_id, dict(e.headers))
        elif isinstance(e, h2.events.DataReceived):
            conn.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            with contextlib.suppress(h2.exceptions.ProtocolError):
                conn.h2.send_data(e.stream_id, e.data)
        elif isinstance(e, h2.events.StreamEnded):
            with contextlib.suppress(h2.exceptions.ProtocolError):
                conn.h2.end_stream(e.stream_id)

    def stop(self):
        self.stopping = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()
        # Each is closed by its own thread: OpenSSL would go on writing to a number that others have by then.
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)


def alert_of(mesh, context):
    """What the server says to a client that it does not take. In TLS 1.3 the client hears of it after its own
    handshake."""
    with inside(mesh.nodes[0].netns):
        s = socket.create_connection((mesh.shop.ip, 15008), timeout=10)
    try:
        with s:
            answer = context.wrap_socket(s).recv(100)
    except ssl.SSLError as e:
        return e.reason
    raise AssertionError(f"the server answers with {answer!r}")
