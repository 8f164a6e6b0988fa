# SPDX-License-Identifier: Apache-2.0
"""A container runtime as the agent sees it: its CRI, served by Python's grpcio."""

import concurrent.futures
import json

import grpc

from support.xds.control_plane import load_messages


class ContainerRuntime:
    """The part of a container runtime's CRI that is asked. refusals: container -> (status, text) instead of its status.
    path: of its socket; netns: the directory of pods' namespaces, as it calls it."""

    def __init__(self, work, sandboxes, refusals=None, path=None, netns="/run/netns"):
        self.messages, self.calls = load_messages(work.directory), []
        self.sandboxes, self.refusals = sandboxes, refusals or {}
        self.path, self.netns = path or work.path("cri.sock"), netns
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers((self,))
        self.server.add_insecure_port(f"unix:{self.path}")
        self.server.start()
        work.defer(lambda: self.server.stop(None).wait() and None)

    def service(self, details):
        method = details.method.rpartition("/")[2]
        self.calls.append(details.method)
        return grpc.unary_unary_rpc_method_handler(
            getattr(self, method),
            self.messages[f"runtime.v1.{method}Request"].FromString,
            lambda m: m.SerializeToString(),
        )

    def ListPodSandbox(self, request, _):
        assert request.filter.HasField("state") and request.filter.state.state == 0
        answer = self.messages["runtime.v1.ListPodSandboxResponse"]()
        for pod in self.sandboxes:
            answer.items.add(id=pod.container).metadata.uid = pod.runtime_uid
        return answer

    def PodSandboxStatus(self, request, context):
        assert request.verbose
        if request.pod_sandbox_id in self.refusals:
            context.abort(*self.refusals[request.pod_sandbox_id])
        pod = next(p for p in self.sandboxes if p.container == request.pod_sandbox_id)
        answer = self.messages["runtime.v1.PodSandboxStatusResponse"]()
        answer.info.add(
            key="info",
            value=json.dumps(
                {
                    "pid": 1,
                    "runtimeSpec": {
                        "linux": {
                            "namespaces": [
                                {"type": "pid"},
                                {"type": "network", "path": f"{self.netns}/{pod.netns}"},
                            ]
                        }
                    },
                }
            ),
        )
        return answer
