# SPDX-License-Identifier: Apache-2.0
"""A node that knows very many workloads, with names of real length: what it tells its control plane when a
stream begins anew, what it keeps meanwhile and what it lets go; and peers that answer every PING and neither
take nor give."""

import re
import socket
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from support.network import inside
from support.system import wait_for
from support.xds.control_plane import ADDRESS
from support.xds.site import add, crowd, end_stream, failed_connects, known, metric, wait_known

ISTIOD_TAKES = 4 * 1024 * 1024
WINDOW = 16 << 20
LET_GO = "removed resources that the first request had not listed"


class Traffic:
    """Connections from web to shop all the while; each must be answered."""

    def __init__(self, site):
        self.site, self.answers, self.stop = site, [], threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.stop.is_set() or len(self.answers) < 6:
            self.answers.append(self.site.ping())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failure):
        self.stop.set()
        self.thread.join()
        if failure[0] is None:
            assert set(self.answers) == {"ping"}, self.answers


def restart(site, options):
    site.plane.stop()
    site.plane.options = options
    before = len(site.plane.streams)
    site.plane.start()
    wait_for(
        lambda: len(site.plane.streams) > before and site.stream().first(ADDRESS), "the proxy to come back"
    )


def test_twenty_thousand_workloads_and_the_stream_ends(new_site):
    site = new_site()
    items = crowd(site.plane, 20000)
    add(site, items)
    wait_known(site, 20002, "all of them", 60)
    with site.plane.lock:
        gone = [n for i, n in enumerate(items) if i % 1000 == 0]
    with Traffic(site):
        with site.plane.lock:
            for n in gone:
                del site.plane.resources[ADDRESS][n]
        first = end_stream(site)
    assert len(first.initial_resource_versions) == 20002 and 1 << 20 < first.ByteSize() < ISTIOD_TAKES
    wait_known(site, 20002 - len(gone), "the removals", 60)
    # News arrive again.
    site.plane.set(site.plane.workload("late", "10.9.7.1"))
    wait_for(lambda: "late" in site.workloads(), "what is new")


def test_a_hundred_thousand_workloads_and_the_stream_ends(new_site):
    """The request stays below what istiod takes; what it does not name is known and served all the while, and
    only what has gone goes."""
    site = new_site(BRUMA_XDS_SETTLE="4s")
    items = crowd(site.plane, 100000)
    add(site, items)
    wait_known(site, 100002, "all of them", 120)
    gone = [n for i, n in enumerate(items) if i % 100 == 0]
    with Traffic(site):
        with site.plane.lock:
            for n in gone:
                del site.plane.resources[ADDRESS][n]
        first = end_stream(site)
        assert 3000000 < first.ByteSize() < ISTIOD_TAKES
        told = {v.key for v in first.initial_resource_versions}
        untold = [n for n in gone if n not in told]
        assert 20000 < len(told) < 60000 and untold and len(untold) < len(gone)
        site.logged(LET_GO)
        wait_known(site, 100002 - len(gone), "what has gone to be let go", 120)
    log = site.node.proxy.text()
    ended = [line for line in log.splitlines() if "the control plane" in line]
    assert metric(site, "bruma_xds_let_go_total") == len(untold)
    assert metric(site, "bruma_xds_requests_bounded_total") == 1, ended
    assert len(site.plane.streams) == 2, ended
    assert re.search(rf"{LET_GO}.*type=addresses resources={len(untold)}\n", log)
    # From the next stream on everything is as always.
    site.plane.set(site.plane.workload("late", "10.9.7.1"))
    wait_known(site, 100003 - len(gone), "what is new", 60)


@pytest.mark.parametrize("pause", [0, 1.5])
def test_nothing_is_told_and_the_answer_comes_in_parts(new_site, pause):
    """While parts are missing nothing of them is let go, however long all of them take: here 9 s, and none of them so long
    as it takes to settle."""
    site = new_site(BRUMA_XDS_REQUEST_MAX="0", BRUMA_XDS_SETTLE="6s")
    add(site, crowd(site.plane, 40))
    wait_known(site, 42, "all of them")
    with site.plane.lock:
        # The pods of the test come last.
        have = site.plane.resources[ADDRESS]
        for n in [n for n in have if "checkout" not in n]:
            have[n] = have.pop(n)
        gone = list(have)[:3]
        for n in gone:
            del have[n]
        site.plane.page, site.plane.pause = 8, pause
    with Traffic(site):
        first = end_stream(site)
        assert not first.initial_resource_versions
        seen = set()
        wait_for(lambda: seen.add(known(site)) or known(site) == 39, "what has gone to be let go", 30)
    assert seen <= {42, 39}, "at once, and only those"
    assert metric(site, "bruma_xds_let_go_total") == 3
    site.logged("xds_request_bounded")


def test_a_resource_that_cannot_be_used_is_not_let_go(new_site):
    """What is refused is mentioned all the same: its last good state stays, as always."""
    site = new_site(BRUMA_XDS_REQUEST_MAX="0", BRUMA_XDS_SETTLE="1s")
    name, good = site.plane.workload("spoilt", "10.9.9.9")
    gone, message = site.plane.workload("gone", "10.9.9.8")
    site.plane.set((name, good), (gone, message))
    wait_for(lambda: {"spoilt", "gone"} <= set(site.workloads()), "both")
    with site.plane.lock:
        site.plane.resources[ADDRESS][name] = ("bad", site.plane.workload("spoilt", b"\1\2\3\4\5")[1])
        del site.plane.resources[ADDRESS][gone]
    end_stream(site)
    wait_for(lambda: "gone" not in site.workloads(), "the other to be let go")
    assert "spoilt" in site.workloads() and site.ping() == "ping"


def test_a_control_plane_that_dies_while_it_answers_costs_nothing(new_site):
    """An answer that was cut off never settles; the next stream's does."""
    site = new_site(BRUMA_XDS_REQUEST_MAX="0", BRUMA_XDS_SETTLE="2s")
    add(site, crowd(site.plane, 40))
    wait_known(site, 42, "all of them")
    site.plane.page, site.plane.pause = 8, 3600
    end_stream(site)
    site.plane.page = None
    time.sleep(0.5)
    refused = failed_connects(site)
    site.plane.stop()
    # The ninth is 2.6 s after the first: longer than it takes to settle.
    wait_for(lambda: failed_connects(site) >= refused + 9, "the proxy to ask again and again", 30)
    assert known(site) == 42 and site.ping() == "ping"
    with site.plane.lock:
        for n in [n for n in site.plane.resources[ADDRESS] if "checkout" in n][:5]:
            del site.plane.resources[ADDRESS][n]
    site.plane.start()
    wait_known(site, 37, "what has gone to be let go", 60)


def test_a_control_plane_that_takes_less_is_told_less(new_site):
    """RESOURCE_EXHAUSTED again and again would be the end of all news."""
    site = new_site(BRUMA_XDS_SETTLE="2s")
    items = crowd(site.plane, 20000)
    add(site, items)
    wait_known(site, 20002, "all of them", 60)
    gone = list(items)[:100]
    with Traffic(site):
        streams = len(site.plane.streams)
        with site.plane.lock:
            for n in gone:
                del site.plane.resources[ADDRESS][n]
        restart(site, [("grpc.max_receive_message_length", 700000)])
        wait_known(site, 19902, "what has gone", 60)
    first = site.stream().first(ADDRESS)
    assert first.ByteSize() <= 700000 and len(site.plane.streams) - streams <= 4
    site.logged("refuses a first request")


# ---- peers that are alive and do nothing ----


class LazyPeer:
    """A control plane without TLS: takes connections and answers PINGs. how: it "takes nothing" beyond the
    first windows, "answers nothing", or "stops in the middle" of an answer."""

    def __init__(self, netns, port, how):
        self.how, self.connections, self.bytes = how, 0, []  # received by each
        with inside(netns):
            self.listener = socket.create_server(("127.0.0.1", port))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.bytes.append(0)
            threading.Thread(target=self._serve, args=(peer, len(self.bytes) - 1), daemon=True).start()

    def _serve(self, peer, index):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        if self.how != "takes nothing":
            # All that is wanted from the beginning on, and never a word about it again.
            connection.local_settings = h2.settings.Settings(
                client=False, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
            )
        connection.initiate_connection()
        if self.how != "takes nothing":
            connection.increment_flow_control_window(WINDOW)
        peer.sendall(connection.data_to_send())
        answered = False
        while data := self._receive(peer):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.bytes[index] += len(event.data)
                    if self.how == "stops in the middle" and not answered:
                        answered = True
                        connection.send_headers(
                            event.stream_id, [(":status", "200"), ("content-type", "application/grpc")]
                        )
                        connection.send_data(event.stream_id, b"\0\0\1\0\0" + b"half of it")
            peer.sendall(connection.data_to_send())

    @staticmethod
    def _receive(peer):
        try:
            return peer.recv(65536)
        except OSError:
            return b""

    def stop(self):
        self.listener.close()


def lazy(site, how):
    """Another proxy, whose control plane is such a peer. Both of its first requests are longer than a
    megabyte."""
    site.node.proxy.stop()
    site.mesh.proxy_env["XDS_ADDRESS"] = "http://127.0.0.1:17012"
    for i in range(12):
        site.mesh.proxy_env[f"ISTIO_META_LONG_{i}"] = "x" * 100000
    peer = LazyPeer(site.node.netns, 17012, how)
    site.node.start_proxy(wait=False)
    return peer


def test_a_long_request_goes_to_its_end_by_itself(new_site):
    """A window for all of it from the beginning on, a reader that is quick, and no frame that would wake up
    the sender."""
    peer = lazy(new_site(), "answers nothing")
    try:
        wait_for(lambda: peer.bytes and peer.bytes[0] > 2400000, "all of both requests", 10)
        assert peer.connections == 1
    finally:
        peer.stop()


@pytest.mark.parametrize("how", ["takes nothing", "answers nothing", "stops in the middle"])
def test_a_control_plane_that_is_alive_and_does_nothing_is_left_and_named(new_site, how):
    site = new_site(BRUMA_STALL_TIMEOUT="2s")
    peer = lazy(site, how)
    try:
        wait_for(lambda: peer.connections >= 3, "further tries", 30)
        wait_for(lambda: "call_stalled" in site.node.proxy.text(), "the reason in the log")
        assert metric(site, "bruma_xds_stalls_total") >= 2
        assert how != "takes nothing" or 65000 < max(peer.bytes) < 66000, peer.bytes
    finally:
        peer.stop()
