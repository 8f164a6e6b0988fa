# SPDX-License-Identifier: Apache-2.0
"""Lines that a proxy adds to its access log."""

import re

from support.system import wait_for

PAIR = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S+)')


class AccessLog:
    """Lines of a node's proxy log from now on."""

    def __init__(self, node):
        self.node = node
        with open(node.proxy_log, "rb") as f:
            self.offset = f.seek(0, 2)

    def lines(self):
        with open(self.node.proxy_log, errors="replace") as f:
            f.seek(self.offset)
            text = f.read()
        return [parse(line) for line in text.splitlines() if "\taccess\t" in line]

    def wait(self, what, **fields):
        """The first line with these fields ("__" stands for "."); a value may be a function."""

        def there():
            for line in self.lines():
                if all(_matches(line.get(key.replace("__", ".")), value) for key, value in fields.items()):
                    return line
            return None

        return wait_for(
            there, f"the access log of {self.node.name} to tell of {what}", 10, log=self.node.proxy_log
        )


def _matches(have, want):
    return want(have) if callable(want) else have == want


def parse(line):
    fields = {"line": line}
    for key, value in PAIR.findall(line):
        fields[key] = value[1:-1] if value.startswith('"') else value
    return fields
