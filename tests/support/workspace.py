# SPDX-License-Identifier: Apache-2.0
"""What one test makes on this machine, and that it goes again."""

import itertools
import os
import tempfile

from support import kernel, network
from support.system import Process

counter = itertools.count(1)


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
