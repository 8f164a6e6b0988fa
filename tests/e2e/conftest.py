# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests. They need root; everything they make is removed at the end, failed or
not.

    build       the meson build directory, from BRUMA_BUILD
    work        a Workspace of this test: unique names, a directory, namespaces and processes that are cleaned up

A whole mesh is in mesh.py: `with Mesh() as mesh`.

Names contain this process's id, so that several runs do not meet.
"""

import itertools
import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support import kernel, network
from support.system import Process

counter = itertools.count(1)


def pytest_configure(config):
    if os.geteuid() != 0:
        pytest.exit("the end-to-end tests need root: they make network namespaces and load BPF programs", 3)
    if not os.path.isfile(os.path.join(os.environ.get("BRUMA_BUILD", ""), "build.ninja")):
        pytest.exit("BRUMA_BUILD must name a meson build directory; `tests/run.sh e2e` sets it", 3)


@pytest.fixture(scope="session")
def build():
    return os.path.abspath(os.environ["BRUMA_BUILD"])


class Workspace:
    """What a test makes: name() is fit for namespaces and links' prefixes, path() for files."""

    def __init__(self, build):
        self.build = build
        self.prefix = f"bruma-{os.getpid()}-{next(counter)}-"
        self.directory = tempfile.mkdtemp(prefix=self.prefix)
        self._undo = []

    def name(self, suffix):
        return self.prefix + suffix

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def defer(self, function, *arguments):
        """To be called at the end; the last one first."""
        self._undo.append((function, arguments))

    def netns(self, suffix):
        name = self.name(suffix)
        self.defer(network.delete, name)
        network.create(name)
        return name

    def process(self, argv, log=None, **options):
        p = Process(
            argv, log or self.path(f"{os.path.basename(str(argv[0]))}-{next(counter)}.log"), **options
        )
        self.defer(p.stop)
        return p

    def bpf_root(self):
        """A directory of our own in a BPF file system."""
        root, mounted = kernel.bpf_root(self.path("bpf"))
        if mounted:
            self.defer(kernel.unmount, root)
        directory = os.path.join(root, self.prefix + "pins")
        self.defer(kernel.remove_pins, directory)
        os.makedirs(directory)
        return directory

    def cgroup(self, suffix="cgroup"):
        root, mounted = kernel.cgroup2_root(self.path("cgroup2"))
        if mounted:
            self.defer(kernel.unmount, root)
        directory = os.path.join(root, self.name(suffix))
        self.defer(kernel.cgroup_remove, directory)
        return kernel.cgroup_create(directory)

    def close(self):
        errors = []
        for function, arguments in reversed(self._undo):
            try:
                trouble = function(*arguments)
                if isinstance(trouble, list):
                    errors += trouble
            except Exception as e:  # the rest must be cleaned up too
                errors.append(f"{getattr(function, '__qualname__', function)}: {e}")
        self._undo = []
        return errors


@pytest.fixture
def work(request, build):
    w = Workspace(build)
    yield w
    errors = w.close()
    if request.session.testsfailed:
        print(f"logs are kept in {w.directory}", file=sys.stderr)
    else:
        shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors
