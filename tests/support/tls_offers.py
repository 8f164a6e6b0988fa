# SPDX-License-Identifier: Apache-2.0
"""What TLS offers and takes, as a stock OpenSSL sees it, and what the OpenSSL at hand has."""

import functools
import os
import re
import socket
import struct
import subprocess

from support.system import placed, run

HYBRID = "X25519MLKEM768"
VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}
SUITES = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0x00FF: None,  # no suite: the sign that renegotiation is secure
}
GROUPS = {23: "P-256", 24: "P-384", 29: "X25519", 4588: HYBRID}


@functools.cache
def has_hybrid():
    return HYBRID in run(["openssl", "list", "-kem-algorithms"]).stdout


@functools.cache
def fips_module():
    """Path of the FIPS provider, or None."""
    folder = re.search(r'MODULESDIR: "(.*)"', run(["openssl", "version", "-m"]).stdout)[1]
    path = f"{folder}/fips.so"
    return path if os.path.exists(path) else None


def fips_config(path):
    run(["openssl", "fipsinstall", "-quiet", "-module", fips_module(), "-out", path])
    return path


def dial(netns, address, files, *options):
    """openssl s_client once: (version, suite, group) as it says them, or None where it is refused."""
    cert, key, root = files
    argv = ["openssl", "s_client", "-connect", "{}:{}".format(*address), "-cert", cert, "-key", key]
    # "-ign_eof" keeps it until it is read: a refused certificate is told behind its own handshake.
    argv += ["-CAfile", root, "-verify_return_error", "-alpn", "h2", "-no_ign_eof", *options]
    r = subprocess.run(
        placed(argv, netns),
        input="",
        capture_output=True,
        text=True,
        errors="replace",  # the server begins to speak HTTP/2
        timeout=20,
        check=False,
    )
    text = r.stdout + r.stderr
    found = re.search(r"New, (TLSv1\.\d), Cipher is (\S+)", text)
    if not found:
        return None
    group = re.search(
        r"(?:Server Temp Key|Negotiated TLS1\.3 group|Peer Temp Key): (?:ECDH, )?([\w-]+)", text
    )
    names = {"prime256v1": "P-256", "secp256r1": "P-256", "secp384r1": "P-384"}
    return found[1].removeprefix("TLSv"), found[2], group and names.get(group[1], group[1])


class Hello:
    """The ClientHello that a client of ours sends to a listener."""

    def __init__(self, listener, seconds=20):
        listener.settimeout(seconds)
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(seconds)
            head = self._exactly(conn, 5)
            body = self._exactly(conn, struct.unpack("!H", head[3:])[0])
        assert head[0] == 22 and body[0] == 1, "a handshake record with a ClientHello"
        self.names = b""
        self._read(body)

    @staticmethod
    def _exactly(conn, size):
        data = b""
        while len(data) < size:
            more = conn.recv(size - len(data))
            assert more, "the client closed"
            data += more
        return data

    def _read(self, body):
        at = 4 + 2 + 32
        at += 1 + body[at]
        (size,) = struct.unpack_from("!H", body, at)
        numbers = struct.unpack_from(f"!{size // 2}H", body, at + 2)
        self.suites = [name for name in (SUITES.get(n, hex(n)) for n in numbers) if name]
        at += 2 + size
        at += 1 + body[at]
        end = at + 2 + struct.unpack_from("!H", body, at)[0]
        at += 2
        self.extensions = {}
        while at < end:
            kind, size = struct.unpack_from("!HH", body, at)
            self.extensions[kind] = body[at + 4 : at + 4 + size]
            at += 4 + size
        self.versions = [VERSIONS.get(n, hex(n)) for n in self._list(43, "!B")]
        self.groups = [GROUPS.get(n, hex(n)) for n in self._list(10, "!H")]
        self.signatures = self._list(13, "!H")
        self.shares = self._shares()

    def _list(self, kind, length):
        data = self.extensions[kind]
        (size,) = struct.unpack_from(length, data)
        return list(struct.unpack_from(f"!{size // 2}H", data, struct.calcsize(length)))

    def _shares(self):
        data, shares, at = self.extensions[51], [], 2
        while at < len(data):
            group, size = struct.unpack_from("!HH", data, at)
            shares.append(GROUPS.get(group, hex(group)))
            at += 4 + size
        return shares


def listen(address):
    return socket.create_server(address, backlog=64)
