# SPDX-License-Identifier: Apache-2.0
"""A small CNI runtime: runs a network's plugins one after another as container runtimes do.

Each plugin gets the network's name and version, its own entry and the result of the plugin before it; what
the last one answered is cached and given to CHECK and DEL, which runs the chain backwards. DEL always goes
through the whole chain and tells of the first error at its end.
"""

import json
import os
import subprocess
import time

from support.system import Failed, placed


class PluginFailed(Failed):
    """A plugin answered with an error object. code and msg are those of the CNI specification."""

    def __init__(self, plugin, command, code, msg, details, output):
        super().__init__(f"{plugin} {command}: {msg}{': ' + details if details else ''} (code {code})")
        self.plugin, self.code, self.msg, self.details, self.output = plugin, code, msg, details, output


class Runtime:
    """Runs the network `conflist` (a dict) in the host's namespace `netns` (None: this one)."""

    def __init__(self, conflist, cache, path, netns=None, env=None):
        self.conflist, self.cache, self.path, self.netns = conflist, cache, path, netns
        self.env = env or {}
        self.times = {}  # (container, plugin) -> seconds of its ADD
        os.makedirs(cache, exist_ok=True)

    def add(self, container, netns, namespace="", name="", uid="", ips=(), ifname="eth0"):
        """Returns the last plugin's result. If one fails, the chain is deleted again, as runtimes do. ips
        ("a.b.c.d/n") are asked for through the capability of that name."""
        result = None
        try:
            for plugin in self.conflist["plugins"]:
                started = time.monotonic()
                result = self._call(
                    "ADD",
                    plugin,
                    container,
                    netns,
                    ifname,
                    pod_args(namespace, name, uid, container),
                    result,
                    ips,
                )
                self.times[container, plugin["type"]] = time.monotonic() - started
        except Failed:
            self._delete_chain(container, netns, ifname, pod_args(namespace, name, uid, container), None)
            raise
        with open(self._cached(container, ifname), "w") as f:
            json.dump({"result": result, "netns": netns, "namespace": namespace, "name": name, "uid": uid}, f)
        return result

    def check(self, container, ifname="eth0"):
        cached = self._load(container, ifname)
        if not cached:
            raise Failed(f"container {container} was never added")
        args = pod_args(cached["namespace"], cached["name"], cached["uid"], container)
        for plugin in self.conflist["plugins"]:
            self._call("CHECK", plugin, container, cached["netns"], ifname, args, cached["result"])

    def delete(self, container, ifname="eth0", netns=None):
        """Deletes; a container that was never added is no error. netns "" stands for one that is gone."""
        cached = self._load(container, ifname) or {
            "result": None,
            "netns": "",
            "namespace": "",
            "name": "",
            "uid": "",
        }
        args = pod_args(cached["namespace"], cached["name"], cached["uid"], container)
        path = cached["netns"] if netns is None else netns
        error = self._delete_chain(
            container, path if os.path.exists(path) else "", ifname, args, cached["result"]
        )
        if error:
            raise error
        if os.path.exists(self._cached(container, ifname)):
            os.unlink(self._cached(container, ifname))

    def status(self):
        for plugin in self.conflist["plugins"]:
            self._call("STATUS", plugin, "", "", "", "", None)

    def containers(self):
        return sorted(name.rsplit("-", 1)[0] for name in os.listdir(self.cache) if name.endswith(".json"))

    def _delete_chain(self, container, netns, ifname, args, result):
        first = None
        for plugin in reversed(self.conflist["plugins"]):
            try:
                self._call("DEL", plugin, container, netns, ifname, args, result)
            except Failed as e:
                first = first or e
        return first

    def _cached(self, container, ifname):
        return os.path.join(self.cache, f"{container}-{ifname}.json")

    def _load(self, container, ifname):
        try:
            with open(self._cached(container, ifname)) as f:
                return json.load(f)
        except FileNotFoundError:
            return None

    def _call(self, command, plugin, container, netns, ifname, args, previous, ips=()):
        config = {**plugin, "cniVersion": self.conflist["cniVersion"], "name": self.conflist["name"]}
        if ips and config.get("capabilities", {}).get("ips"):
            config["runtimeConfig"] = {"ips": list(ips)}
        if previous is not None:
            config["prevResult"] = previous
        env = {
            "CNI_COMMAND": command,
            "CNI_PATH": self.path,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            **self.env,
        }
        for key, value in (
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", ifname),
            ("CNI_ARGS", args),
        ):
            if value:
                env[key] = value
        return call(plugin["type"], self.path, command, config, env, self.netns)


def pod_args(namespace, name, uid, container):
    if not name:
        return ""
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container}"
    return args + (f";K8S_POD_UID={uid}" if uid else "")


def find_plugin(plugin, path):
    for directory in path.split(":"):
        if os.access(os.path.join(directory, plugin), os.X_OK):
            return os.path.join(directory, plugin)
    raise Failed(f"CNI plugin {plugin} is in none of {path}")


def call(plugin, path, command, config, env, netns=None, timeout=90):
    """One run of one plugin with exactly this environment. Returns its JSON answer, None if it gave none."""
    argv = placed([find_plugin(plugin, path)], netns)
    try:
        r = subprocess.run(
            argv, input=json.dumps(config), env=env, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{plugin} {command} did not end within {timeout} s") from e
    if r.returncode == 0:
        return json.loads(r.stdout) if r.stdout.strip() else None
    try:
        error = json.loads(r.stdout)
        raise PluginFailed(plugin, command, error["code"], error["msg"], error.get("details", ""), r.stdout)
    except (ValueError, KeyError, TypeError) as e:
        raise Failed(
            f"{plugin} {command} ended with {r.returncode} and said no JSON: "
            f"{(r.stdout + r.stderr).strip()[-500:]}"
        ) from e
