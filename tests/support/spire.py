# SPDX-License-Identifier: Apache-2.0
"""A real SPIRE: a server and its agent for one trust domain, on a node. BRUMA_SPIRE names the directory of the programs
spire-server and spire-agent."""

import json
import os

from support.system import Process, run, wait_for

PROGRAMS = os.environ.get("BRUMA_SPIRE", "")
HERE = os.access(f"{PROGRAMS}/spire-server", os.X_OK) and os.access(f"{PROGRAMS}/spire-agent", os.X_OK)

SERVER = """
server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = "{directory}/server/api.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{directory}/server"
    log_level = "DEBUG"
    experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{directory}/server/datastore.sqlite3"
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
}}
"""

AGENT = """
agent {{
    data_dir = "{directory}/agent-data"
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = "{directory}/agent/api.sock"
    admin_socket_path = "{directory}/admin/admin.sock"
    authorized_delegates = {delegates}
    trust_domain = "{trust_domain}"
    insecure_bootstrap = true
    experimental {{ sync_interval = "1s" }}
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ directory = "{directory}/agent-data" }} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class Spire:
    """Of the node whose network namespace it is in; processes of user 0 are the delegate."""

    server = agent = None

    def __init__(self, directory, netns, trust_domain, port=8081):
        self.directory, self.netns, self.trust_domain, self.port = directory, netns, trust_domain, port
        self.delegate, self.parent = f"spiffe://{trust_domain}/bruma-proxy", f"spiffe://{trust_domain}/node"
        self.socket, self.workload_socket = f"{directory}/admin/admin.sock", f"{directory}/agent/api.sock"
        self.api = f"{directory}/server/api.sock"
        self.server_log, self.agent_log = f"{directory}/server.log", f"{directory}/agent.log"
        for name in ("server", "agent", "admin", "agent-data"):
            os.makedirs(f"{directory}/{name}")

    def env(self):
        return {"BRUMA_IDENTITY_SOURCES": "spire", "BRUMA_SPIRE_SOCKET": self.socket, "CA_ADDRESS": ""}

    def _write(self, name, text, **more):
        path = f"{self.directory}/{name}"
        with open(path, "w") as f:
            f.write(
                text.format(directory=self.directory, port=self.port, trust_domain=self.trust_domain, **more)
            )
        return path

    def ctl(self, *argv, **options):
        """What spire-server says to a command."""
        return run(
            [f"{PROGRAMS}/spire-server", *argv, "-socketPath", self.api], netns=self.netns, **options
        ).stdout

    def start_server(self):
        config = self._write("server.conf", SERVER)
        self.server = Process(
            [f"{PROGRAMS}/spire-server", "run", "-config", config], self.server_log, netns=self.netns
        )
        wait_for(lambda: "healthy" in self.ctl("healthcheck"), "SPIRE's server", 60, log=self.server_log)

    def start_agent(self, delegates=None):
        """The first time by a token, later by what it has kept."""
        delegates = json.dumps([self.delegate] if delegates is None else delegates)
        argv = [f"{PROGRAMS}/spire-agent", "run"]
        argv += ["-config", self._write("agent.conf", AGENT, delegates=delegates)]
        if not self.agent:
            token = self.ctl("token", "generate", "-spiffeID", self.parent)
            argv += ["-joinToken", token.split("Token:")[1].split()[0]]
        self.agent = Process(argv, self.agent_log, netns=self.netns)
        wait_for(lambda: os.path.exists(self.socket), "SPIRE's agent", 60, log=self.agent_log)

    def stop_agent(self):
        self.agent.stop()

    def start(self):
        self.start_server()
        self.entry(self.delegate, "unix:uid:0")
        self.start_agent()

    def stop(self):
        for process in (self.agent, self.server):
            if process:
                process.kill()

    def entry(self, name, *selectors, federates=(), ttl=None):
        """Makes one, and returns its ID."""
        argv = ["entry", "create", "-output", "json", "-parentID", self.parent, "-spiffeID", name]
        for selector in selectors:
            argv += ["-selector", selector]
        for other in federates:
            argv += ["-federatesWith", f"spiffe://{other}"]
        argv += ["-x509SVIDTTL", str(ttl)] if ttl else []
        (result,) = json.loads(self.ctl(*argv))["results"]
        return result["entry"]["id"]

    def delete_entry(self, entry):
        self.ctl("entry", "delete", "-entryID", entry)

    def bundle(self):
        """The trust domain's own, as another server takes it."""
        return self.ctl("bundle", "show", "-format", "spiffe")

    def federate(self, other):
        """Knows the other's bundle from now on."""
        path = f"{self.directory}/{other.trust_domain}.json"
        with open(path, "w") as f:
            f.write(other.bundle())
        self.ctl("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{other.trust_domain}", "-path", path)

    def part(self, other):
        """It does not any more, and neither do its entries."""
        self.ctl("bundle", "delete", "-id", f"spiffe://{other.trust_domain}", "-mode", "dissociate")

    def authority(self, command, *argv):
        """A step of the X.509 authorities: the ID of the one that it is about; "show": of the one that signs."""
        said = json.loads(self.ctl("localauthority", "x509", command, "-output", "json", *argv))
        (one,) = [said["active"]] if command == "show" else said.values()
        return one["authority_id"]
