# SPDX-License-Identifier: Apache-2.0
"""Python's h2 over Python's ssl as the other end of a tunnel that is busy all the time, in either role. It checks each byte and
that each of its frames is answered, and h2 that windows, numbers and states are as the protocol has them. What it sends leaves in
pieces of any size, so that records and frames are cut anywhere at any time."""

import contextlib
import hashlib
import queue
import random
import select
import ssl
import threading
import time

import h2.config
import h2.events
import h2.exceptions
import h2.settings
from h2.settings import SettingCodes

from support.proxies import hbone

PERIOD = 1 << 16
WINDOWS = (1000, 20_000, 65_535, 300_000, 1 << 20)
BUSY, UNREAD, SHORT = 20_000, 1 << 20, 0  # bytes ahead of what has come back


class Stream:
    """A client's: says bytes of a sequence of its own and hears them again. A server's: says what it hears, and counts
    what comes behind its end."""

    def __init__(self, sid, ahead=BUSY):
        self.id, self.ahead = sid, ahead
        self.bytes = hashlib.shake_128(str(sid).encode()).digest(PERIOD) * 2
        self.sent = self.got = self.owed = 0  # owed: heard, and no credit given for it
        self.limit = None  # of bytes; then it ends
        self.status = self.reset = None
        self.unsent = bytearray()
        self.says_end = self.ended = self.over = False
        self.reads = True  # and gives credit

    def check(self, data):
        at = self.got % PERIOD
        for n in range(0, len(data), PERIOD):
            part = data[n : n + PERIOD]
            assert self.bytes[at : at + len(part)] == part, f"stream {self.id}: wrong bytes behind {self.got}"
        self.got += len(data)


class Peer(threading.Thread):
    """A tunnel. Its thread alone uses it; do() is for others. restless: it sends PING and SETTINGS all the time, and a client
    opens streams that end soon, or are reset."""

    def __init__(self, sock, context, client, seed=0, restless=True):
        super().__init__(daemon=True)
        self.sock, self.client, self.restless, self.random = sock, client, restless, random.Random(seed)
        self.sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=not client)
        self.h2 = hbone.Connection(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self.cipher = b""  # not sent yet
        self.most = None  # bytes that may be sent at all; None: as many as there are
        self.streams, self.authority = {}, None
        self.orders, self.stopping, self.failure = queue.Queue(), False, None
        self.pings, self.pinged, self.settings_sent, self.settings_heard = [], 0, 1, 0
        self.goaways, self.opened, self.resets = [], 0, 0
        self.due = {}
        self.start()

    # ---- for other threads ----

    def do(self, function):
        """Calls function(self) in its thread; returns what that returns."""
        done, answer = threading.Event(), []
        self.orders.put((function, answer, done))
        while not done.wait(0.1):
            assert self.is_alive(), self.failure
        assert answer, self.failure
        return answer[0]

    def good(self):
        """True, for wait_for()."""
        assert self.failure is None and self.is_alive() and not self.goaways, (self.failure, self.goaways)
        return True

    def told(self):
        """What it waits for."""
        streams = [
            (s.id, s.sent, s.got, s.owed, len(s.unsent), s.ended, s.over) for s in self.streams.values()
        ]
        return (
            f"PING {len(self.pings)}, SETTINGS {self.settings_sent - self.settings_heard}, streams {streams}"
        )

    def answered(self):
        """All that it has sent so far."""
        return self.good() and not self.pings and self.settings_heard == self.settings_sent

    def stop(self):
        self.stopping = True
        self.join(10)

    # ---- its thread ----

    def run(self):
        try:
            self.handshake()
            self.h2.initiate_connection()
            self.h2.increment_flow_control_window(1 << 24)  # one that is not read shall not stop all
            while not self.stopping:
                self.obey()
                self.talk()
                self.flush()
                self.hear()
        except Exception as e:
            self.failure = f"{type(e).__name__}: {e}"
        finally:
            self.sock.close()

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                self.send(everything=True)
                return
            except ssl.SSLWantReadError:
                self.send(everything=True)
                self.receive(5)

    def receive(self, seconds):
        if select.select([self.sock], [], [], seconds)[0]:
            data = self.sock.recv(PERIOD)
            assert data, "the tunnel has ended"
            self.incoming.write(data)

    def send(self, everything=False):
        self.cipher += self.outgoing.read()
        size = len(self.cipher) if everything else self.random.randint(0, len(self.cipher))
        if self.most is not None:
            size = min(len(self.cipher), self.most)
        with contextlib.suppress(BlockingIOError):
            sent = self.sock.send(self.cipher[:size]) if size else 0
            self.cipher = self.cipher[sent:]
            if self.most is not None:
                self.most -= sent

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.tls.write(data)
        self.send()

    def hear(self):
        self.receive(0.002)
        while True:
            try:
                data = self.tls.read(PERIOD)
            except ssl.SSLWantReadError:
                return
            assert data, "the tunnel has ended"
            for e in self.h2.receive_data(data):
                self.take(e)

    def obey(self):
        with contextlib.suppress(queue.Empty):
            while True:
                function, answer, done = self.orders.get_nowait()
                try:
                    answer.append(function(self))
                finally:
                    done.set()

    # ---- what comes ----

    def take(self, e):
        s = self.streams.get(getattr(e, "stream_id", None))
        if isinstance(e, h2.events.PingAckReceived):
            assert self.pings.pop(0) == e.ping_data, "answers to PING in their order"
        elif isinstance(e, h2.events.SettingsAcknowledged):
            self.settings_heard += 1
        elif isinstance(e, h2.events.ConnectionTerminated):
            self.goaways.append((int(e.error_code), e.last_stream_id))
        elif isinstance(e, h2.events.RequestReceived):
            self.h2.send_headers(e.stream_id, [(":status", "200")])
            self.streams[e.stream_id] = Stream(e.stream_id)
        elif s and isinstance(e, h2.events.ResponseReceived):
            s.status = dict(e.headers)[":status"]
            assert s.status == "200", s.status
        elif s and isinstance(e, h2.events.DataReceived):
            s.owed += e.flow_controlled_length
            if self.client:
                s.check(e.data)
            elif s.ended:
                s.got += len(e.data)
            else:
                s.unsent += e.data
        elif s and isinstance(e, h2.events.StreamEnded):
            s.over = True
            assert not self.client or s.got == s.sent or s.says_end, f"an end behind {s.got} of {s.sent}"
        elif s and isinstance(e, h2.events.StreamReset):
            s.reset = int(e.error_code)
            assert not self.client, f"stream {s.id} is reset: {s.reset}"
            del self.streams[s.id]

    # ---- what is said ----

    def open(self, ahead=BUSY, limit=None):
        s = Stream(self.h2.get_next_available_stream_id(), ahead)
        s.limit = limit
        self.h2.send_headers(s.id, [(":method", "CONNECT"), (":authority", self.authority)])
        self.streams[s.id] = s
        self.opened += 1
        return s

    def ping(self):
        self.pinged += 1
        self.pings.append(self.pinged.to_bytes(8, "big"))
        self.h2.ping(self.pings[-1])

    def set(self, **values):
        self.settings_sent += 1
        self.h2.update_settings({getattr(SettingCodes, k.upper()): v for k, v in values.items()})

    def reset(self, s):
        self.resets += 1
        self.h2.reset_stream(s.id, 8)
        self.streams.pop(s.id, None)

    def is_due(self, what, seconds):
        now = time.monotonic()
        if now < self.due.setdefault(what, now + seconds):
            return False
        self.due[what] = now + seconds * self.random.uniform(0.5, 1.5)
        return True

    def talk(self):
        for s in list(self.streams.values()):
            self.give_credit(s)
            if not s.ended and (s.status or not self.client) and len(self.cipher) < 1 << 18:
                self.say(s)
            if s.over and s.ended:
                del self.streams[s.id]
        if not self.restless:
            return
        if self.is_due("ping", 0.01):
            self.ping()
        # Not before the first ones are acknowledged: h2 takes that for all that it has sent by then.
        if (
            self.settings_heard
            and self.is_due("settings", 0.05)
            and self.settings_sent - self.settings_heard < 3
        ):
            self.set(
                initial_window_size=self.random.choice(WINDOWS),
                max_frame_size=self.random.choice((16384, 65536)),
                header_table_size=self.random.choice((0, 100, 4096)),
            )
        if self.client and self.is_due("stream", 0.05) and len(self.streams) < 50:
            self.open(SHORT, self.random.randrange(50_000))
        if self.client and self.is_due("reset", 0.2):
            for s in list(self.streams.values()):
                if s.ahead == SHORT:
                    self.reset(s)
                    break

    def give_credit(self, s):
        if s.owed and s.reads and len(s.unsent) < BUSY:
            with contextlib.suppress(h2.exceptions.ProtocolError):  # of a stream that is over
                self.h2.acknowledge_received_data(s.owed, s.id)
            s.owed = 0

    def say(self, s):
        if self.client:
            end = s.limit if s.limit is not None else s.got + s.ahead
            left = end - s.sent
        else:
            left = len(s.unsent)
        size = min(left, self.h2.local_flow_control_window(s.id), self.h2.max_outbound_frame_size)
        if size > 0:
            size = self.random.randint(1, size) if self.random.random() < 0.5 else size
            at = s.sent % PERIOD
            data = s.bytes[at : at + min(size, PERIOD)] if self.client else bytes(s.unsent[:size])
            self.h2.send_data(s.id, data)
            s.sent += len(data)
            del s.unsent[: len(data)]
        elif left <= 0 and (
            (self.client and s.limit is not None) or (not self.client and s.over) or s.says_end
        ):
            s.ended = True
            self.h2.end_stream(s.id)


def connect(netns_socket, certificate, authority, **options):
    """A client's, with a socket that is connected."""
    peer = Peer(netns_socket, hbone.context(False, *certificate), True, **options)
    peer.authority = authority
    return peer


class Server:
    """Accepts tunnels; each is a Peer that echoes."""

    def __init__(self, listener, certificate, **options):
        self.listener, self.context, self.options = listener, hbone.context(True, *certificate), options
        self.peers, self.stopping = [], False
        self.listener.settimeout(0.1)
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while not self.stopping:
            with contextlib.suppress(TimeoutError):
                sock, _ = self.listener.accept()
                self.peers.append(Peer(sock, self.context, False, seed=len(self.peers), **self.options))

    def stop(self):
        """The listener is the caller's."""
        self.stopping = True
        self.thread.join(10)
        for p in self.peers:
            p.stop()
