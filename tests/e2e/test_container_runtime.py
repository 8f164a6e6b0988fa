# SPDX-License-Identifier: Apache-2.0
"""bruma-agent asks the container runtime where pods run. The runtimes here are Python's grpcio and, for what no
library would send, h2."""

import contextlib
import socket
import threading
import time

import grpc
import h2.config
import h2.connection
import h2.events

from support.container_runtime import ContainerRuntime
from support.kube.world import AMBIENT
from support.system import wait_for

LIST = "/runtime.v1.RuntimeService/ListPodSandbox"
STATUS = "/runtime.v1.RuntimeService/PodSandboxStatus"


def test_container_runtime_is_asked(small):
    small.server.make_namespace("shop", AMBIENT)
    pods = [small.sandbox("shop", f"p{i}", 10 + i) for i in range(3)]
    runtime = ContainerRuntime(small.work, pods)
    small.start(cri_socket=runtime.path).ready()
    for pod in pods:
        small.wait_redirection("shop", pod.name, "enabled")
    assert small.log().count("by=cri") == 3
    assert runtime.calls.count(LIST) == 1


def test_runtime_that_knows_many_pods(small):
    """An answer of several megabytes comes in many frames, and needs more credit than a stream begins with."""
    small.server.make_namespace("shop", AMBIENT)
    pod = small.sandbox("shop", "web", 10)
    runtime = ContainerRuntime(small.work, [pod])
    ask = runtime.ListPodSandbox

    def many(request, context):
        answer = ask(request, context)
        for i in range(50_000):
            answer.items.add(id=f"{i:064}").metadata.uid = f"{i:036}"
        assert answer.ByteSize() > 4 * 1024 * 1024
        return answer

    runtime.ListPodSandbox = many
    small.start(cri_socket=runtime.path).ready()
    small.wait_redirection("shop", "web", "enabled")
    assert small.log().count("by=cri") == 1


def test_what_the_runtime_says_of_a_pod_is_told(small):
    """Its status and its words, whatever their length in digits; the other pods are found."""
    small.server.make_namespace("shop", AMBIENT)
    pods = [small.sandbox("shop", f"p{i}", 10 + i) for i in range(4)]
    refusals = {
        pods[0].container: (grpc.StatusCode.UNIMPLEMENTED, 'no 100% "verbose"\tstate, désolé'),
        pods[1].container: (grpc.StatusCode.UNAVAILABLE, "going away"),
        pods[2].container: (grpc.StatusCode.NOT_FOUND, ""),
    }
    runtime = ContainerRuntime(small.work, pods, refusals)
    small.start(cri_socket=runtime.path).ready()
    small.wait_redirection("shop", "p3", "enabled")

    def told(pod, words):
        return f'where sandbox {pod.container} is: {words}"' in small.log()

    for pod, words in (
        (pods[0], 'gRPC status 12: no 100% \\"verbose\\"?state, d??sol??'),
        (pods[1], "gRPC status 14: going away"),
        (pods[2], "gRPC status 5: "),
    ):
        wait_for(lambda pod=pod, words=words: told(pod, words), words, 20, log=small.node.agent_log)


def test_runtime_that_hangs_is_asked_once_a_search(small):
    """Each question takes its three seconds; a node with hundreds of pods would not see the control groups for many minutes."""
    small.server.make_namespace("shop", AMBIENT)
    pods = [small.sandbox("shop", f"p{i}", 10 + i) for i in range(8)]
    runtime = ContainerRuntime(small.work, pods)
    over = threading.Event()
    small.work.defer(over.set)
    runtime.PodSandboxStatus = lambda request, context: (
        over.wait(60) and runtime.messages["runtime.v1.PodSandboxStatusResponse"]()
    )
    small.start(cri_socket=runtime.path).ready()
    wait_for(lambda: STATUS in runtime.calls, "the first question")
    begin = time.monotonic()
    small.status()
    assert time.monotonic() - begin < 2, "the agent's loop does not wait for the runtime"
    wait_for(lambda: runtime.calls.count(LIST) == 2, "the second search", 20, log=small.node.agent_log)
    assert runtime.calls.count(STATUS) in (1, 2)
    wait_for(
        lambda: "is: gRPC status 4: deadline exceeded" in small.log(),
        "the reason",
        20,
        log=small.node.agent_log,
    )
    over.set()


# ---- what no library sends ----

OK = [(":status", "200"), ("content-type", "application/grpc")]


class RawRuntime:
    """Answers each connection's first request by what is next in its list, a function of (h2 connection, stream); for good by the
    last."""

    def __init__(self, work, answers):
        self.answers, self.path, self.heads = list(answers), work.path("raw.sock"), []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        work.defer(self.listener.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            threading.Thread(target=self._serve, args=(s, answer), daemon=True).start()

    def _serve(self, s, answer):
        then = None
        with s, contextlib.suppress(ConnectionResetError):
            c = h2.connection.H2Connection(
                h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
            )
            c.initiate_connection()
            s.sendall(c.data_to_send())
            while data := s.recv(65536):
                for event in c.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.heads.append(dict(event.headers))
                    if isinstance(event, h2.events.StreamEnded):
                        then = answer(c, event.stream_id)
                # The client may have heard enough.
                with contextlib.suppress(BrokenPipeError):
                    s.sendall(c.data_to_send())
                if then == "close":
                    s.shutdown(socket.SHUT_WR)


def answer_of(*data, head=OK, trailers=(("grpc-status", "0"),), then=None):
    def answer(c, stream):
        c.send_headers(stream, list(head), end_stream=not data and not trailers and not then)
        for i, d in enumerate(data):
            c.send_data(stream, d, end_stream=i == len(data) - 1 and not trailers and not then)
        if trailers and not then:
            c.send_headers(stream, list(trailers), end_stream=True)
        return then

    return answer


def trailers_only(*trailers):
    return answer_of(head=[*OK, *trailers], trailers=())


def message(payload, length=None, flag=0):
    return bytes([flag]) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


REFUSALS = {
    "trailers only": (
        trailers_only(("grpc-status", "12"), ("grpc-message", "no%20such%20call%2c 100%25%")),
        "gRPC status 12: no such call, 100%%",
    ),
    "trailers": (
        answer_of(trailers=[("grpc-status", "14"), ("grpc-message", "later")]),
        "gRPC status 14: later",
    ),
    "a message, then trailers": (answer_of(message(b""), trailers=[("grpc-status", "4")]), "gRPC status 4: "),
    "no number": (trailers_only(("grpc-status", "1x")), "gRPC status 2: "),
    "no status": (answer_of(message(b""), trailers=()), "gRPC status 13: the answer has no status"),
    "no message": (answer_of(), "gRPC status 0: no message"),
    "two messages": (answer_of(message(b""), message(b"")), "gRPC status 0: more than one message"),
    "not protobuf": (answer_of(message(b"\xff\xff\xff")), "gRPC status 0: no message of its kind"),
    "cut, and OK": (answer_of(message(b"abc", length=9)), "gRPC status 13: a message is truncated"),
    "cut in its prefix, and OK": (answer_of(b"\0\0\0"), "gRPC status 13: a message is truncated"),
    "cut, and the end": (
        answer_of(message(b"abc", length=9), then="close"),
        "gRPC status 14: the peer closed the connection",
    ),
    "compressed": (answer_of(message(b"abc", flag=1)), "gRPC status 13: a compressed message"),
    "too long": (
        answer_of(message(b"abc", length=16 * 1024 * 1024 + 1)),
        "gRPC status 8: a message is longer than is accepted",
    ),
    "HTTP": (
        answer_of(b"no", head=[(":status", "404"), ("content-type", "text/html")], trailers=()),
        "gRPC status 12: HTTP status 404",
    ),
    "not gRPC": (
        answer_of(b"hello", head=[(":status", "200"), ("content-type", "text/html")], trailers=()),
        "gRPC status 13: ",
    ),
    "silence": (lambda c, stream: None, "gRPC status 4: deadline exceeded"),
}


def test_answers_that_are_none(small):
    """Each in a search of its own, which a pod that comes begins."""
    small.server.make_namespace("shop", AMBIENT)
    runtime = RawRuntime(small.work, [answer for answer, _ in REFUSALS.values()])
    small.start(cri_socket=runtime.path).ready()
    for i, (name, (_, words)) in enumerate(REFUSALS.items()):
        small.server.make_pod("shop", f"a{i}", "n1", [f"10.9.9.{i + 1}"])
        wait_for(
            lambda i=i: small.log().count("which pods it runs") > i,
            f"the answer to {name}",
            20,
            log=small.node.agent_log,
        )
        line = [line for line in small.log().splitlines() if "which pods it runs" in line][i]
        assert f'socket={runtime.path} error="{words}' in line, name
    for head in runtime.heads:
        assert head[":path"] == LIST and head[":authority"] == "localhost" and head["te"] == "trailers"


def test_socket_that_nobody_serves(small):
    small.server.make_namespace("shop", AMBIENT)
    small.sandbox("shop", "web", 10)
    path = small.work.path("dead.sock")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
    small.start(cri_socket=path).ready()
    wait_for(
        lambda: f'socket={path} error="Connection refused"' in small.log(),
        "the refusal",
        20,
        log=small.node.agent_log,
    )
