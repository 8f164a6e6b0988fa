#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a container image of an installed Bruma, without a daemon: an archive that `ctr images import`,
`docker load`, `podman load` and `skopeo copy docker-archive:` take. The same input gives the same bytes.

    DESTDIR=TREE meson install -C build
    packaging/image/build.py TREE bruma:0.1.0 bruma.tar
    packaging/image/build.py --fips TREE bruma:0.1.0-fips bruma-fips.tar

OpenSSL's FIPS provider is in either one if this machine has it, and COMPLIANCE_POLICY switches it on. With --fips it must be
there, and is on (fips-140-3) unless COMPLIANCE_POLICY says otherwise.

The image is for the machine that the programs are for. For another one than this, its libraries must be here (Debian:
`dpkg --add-architecture arm64`) and its strip; FIPS is not to be had then, because the provider's test must run.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

PROGRAMS = ["usr/sbin/bruma-agent", "usr/sbin/bruma-proxy", "usr/sbin/brumactl", "usr/lib/cni/bruma-cni"]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
FIPS_CONFIG = "etc/bruma/fipsmodule.cnf"
# Of the public authorities: where Debian's libcurl looks for them, and OpenSSL.
ROOTS, ROOTS_LINK = "etc/ssl/certs/ca-certificates.crt", "usr/lib/ssl/cert.pem"


class Failed(Exception):
    pass


def machine_of(program):
    with open(program, "rb") as f:
        header = f.read(20)
    if header[:4] != b"\x7fELF":
        raise Failed(f"{program} is no program")
    machine = ELF_MACHINES.get(int.from_bytes(header[18:20], "little"))
    if not machine:
        raise Failed(f"{program} is for a machine that images are not made for")
    return machine


def output(*argv):
    r = subprocess.run(argv, capture_output=True, text=True)
    if r.returncode:
        raise Failed(f"{' '.join(argv)}: {r.stderr.strip()}")
    return r.stdout


def foreign_libraries(program, machine):
    """As libraries(), for a program that does not run here."""
    loader = re.search(r"interpreter: (/\S+)\]", output("readelf", "-lW", program))
    if not loader:
        return []
    found, todo = {os.path.basename(loader[1]): loader[1]}, [program]
    while todo:
        for name in re.findall(r"\(NEEDED\).*\[(\S+)\]", output("readelf", "-dW", todo.pop())):
            if name in found:
                continue
            folders = (f"/lib/{machine}-linux-gnu", f"/usr/lib/{machine}-linux-gnu")
            path = next(
                (f"{folder}/{name}" for folder in folders if os.path.exists(f"{folder}/{name}")), None
            )
            if not path:
                raise Failed(f"{program} needs a library that is not here: {name} for {machine}")
            found[name] = path
            todo.append(path)
    return sorted(found.values())


def libraries(program):
    """What the dynamic linker would load, at the paths where it looks on this distribution."""
    machine = machine_of(program)
    if machine != os.uname().machine:
        return foreign_libraries(program, machine)
    r = subprocess.run(["ldd", program], capture_output=True, text=True)
    if r.returncode:
        if "not a dynamic executable" in r.stderr + r.stdout or "statically linked" in r.stdout:
            return []
        raise Failed(f"ldd {program}: {r.stderr.strip()}")
    if "not found" in r.stdout:
        raise Failed(f"{program} needs a library that is not here:\n{r.stdout}")
    return re.findall(r"(/\S+) \(0x", r.stdout)


def stripped(path, directory):
    """Without symbols, which are most of a program built for debugging."""
    out, machine = os.path.join(directory, os.path.basename(path)), machine_of(path)
    output("strip" if machine == os.uname().machine else f"{machine}-linux-gnu-strip", "-o", out, path)
    return out


def fips_files(scratch):
    """The provider as it is, at the path where OpenSSL looks for it, and the file that says its digest; nothing where there is
    none. A stripped one would not be what was signed."""
    told = subprocess.run(["openssl", "version", "-m"], capture_output=True, text=True)
    folder = re.search(r'MODULESDIR: "(.*)"', told.stdout)
    module = f"{folder[1]}/fips.so" if folder else ""
    if not os.path.isfile(module):
        return {}
    config = os.path.join(scratch, "fipsmodule.cnf")
    r = subprocess.run(
        ["openssl", "fipsinstall", "-quiet", "-module", module, "-out", config],
        capture_output=True,
        text=True,
    )
    if r.returncode:
        raise Failed(f"{module} does not pass its own test: {r.stderr.strip()}")
    files = {}
    for name, path in ((module.lstrip("/"), module), (FIPS_CONFIG, config)):
        with open(path, "rb") as f:
            files[name] = (f.read(), 0o644)
    return files


def collect(tree, scratch):
    """Name in the image -> (contents, mode); a text is what a link is to."""
    files = {}
    for program in PROGRAMS:
        path = os.path.join(tree, program)
        if not os.path.isfile(path):
            raise Failed(f"{path} is missing: install into {tree} first")
        with open(stripped(path, scratch), "rb") as f:
            files[program] = (f.read(), 0o755)
        for library in libraries(path):
            with open(os.path.realpath(library), "rb") as f:
                files[library.lstrip("/")] = (f.read(), 0o755)
    files["etc/passwd"] = (b"root:x:0:0:root:/:/sbin/nologin\n", 0o644)
    files["etc/group"] = (b"root:x:0:\n", 0o644)
    if machine_of(os.path.join(tree, PROGRAMS[0])) == os.uname().machine:
        files.update(fips_files(scratch))
    if not os.path.isfile(f"/{ROOTS}"):
        raise Failed(f"/{ROOTS} is missing: package ca-certificates")
    with open(f"/{ROOTS}", "rb") as f:
        files[ROOTS] = (f.read(), 0o644)
    files[ROOTS_LINK] = (f"/{ROOTS}", 0o777)
    # Names are looked up in files, then DNS; both modules are part of libc.
    files["etc/nsswitch.conf"] = (b"hosts: files dns\n", 0o644)
    return files


def add(tar, name, data=None, mode=0o755):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.uid, info.gid = mode, 0, 0, 0
    if data is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif isinstance(data, str):
        info.type, info.linkname = tarfile.SYMTYPE, data
        tar.addfile(info)
    else:
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def layer(files):
    folders = {"tmp", "run", "proc", "sys", "dev", "var"}
    for name in files:
        parts = name.split("/")[:-1]
        folders.update("/".join(parts[: i + 1]) for i in range(len(parts)))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(folders):
            add(tar, name, mode=0o1777 if name == "tmp" else 0o755)
        for name in sorted(files):
            add(tar, name, *files[name])
    return out.getvalue()


def environment(files, fips):
    env = [f"PATH={PATH}"]
    if FIPS_CONFIG in files:
        env.append(f"BRUMA_FIPS_CONFIG=/{FIPS_CONFIG}")
    elif fips:
        raise Failed("this machine has no FIPS provider for them (Debian 13: package openssl-provider-fips)")
    return [*env, "COMPLIANCE_POLICY=fips-140-3"] if fips else env


def build(tree, name, target, fips=False):
    with tempfile.TemporaryDirectory() as scratch:
        files = collect(tree, scratch)
    env, contents = environment(files, fips), layer(files)
    digest = hashlib.sha256(contents).hexdigest()
    config = json.dumps(
        {
            "architecture": ARCHITECTURES[machine_of(os.path.join(tree, PROGRAMS[0]))],
            "os": "linux",
            "config": {
                "Env": env,
                "Labels": {"org.opencontainers.image.licenses": "Apache-2.0"},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        },
        sort_keys=True,
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        add(tar, "manifest.json", manifest, 0o644)
        add(tar, config_name, config, 0o644)
        add(tar, "layer.tar", contents, 0o644)
    return len(contents)


def main():
    fips = "--fips" in sys.argv[1:]
    argv = [a for a in sys.argv[1:] if a != "--fips"]
    if len(argv) != 3:
        sys.exit(__doc__.strip())
    try:
        size = build(*argv, fips)
    except (Failed, OSError, KeyError) as e:
        sys.exit(f"{sys.argv[0]}: {e}")
    print(f"{argv[2]}: {argv[1]}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
