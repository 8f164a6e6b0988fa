# SPDX-License-Identifier: Apache-2.0
"""`brumactl dashboard`, as a program that serves a page (browser.py looks at it)."""

import contextlib
import http.client
import json
import re
import urllib.parse

from support.programs import program
from support.system import Process, wait_for


class Dashboard:
    """The command, until the end of the block. argv: how the mesh is found."""

    def __init__(self, directory, *argv, env=None):
        self.log = f"{directory}/dashboard.log"
        self.argv, self.env, self.process = argv, env, None

    def __enter__(self):
        self.process = Process(
            [program("brumactl"), *self.argv, "dashboard", "--no-browser"], self.log, env=self.env
        )
        found = wait_for(
            lambda: re.search(r"^http://127\.0\.0\.1:(\d+)/(\w+)/$", self.process.text(), re.M),
            "the address of the page",
            log=self.log,
        )
        self.url, self.port, self.token = found[0], int(found[1]), found[2]
        return self

    def __exit__(self, *exc):
        self.process.stop()

    def get(self, path, method="GET", **headers):
        """Below the token: (status, headers, body)."""
        return self.raw(f"/{self.token}/{path}", method, **headers)

    def raw(self, target, method="GET", **headers):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=70)) as c:
            c.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                if value is not None:
                    c.putheader(name.replace("_", "-"), value)
            c.endheaders()
            answer = c.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def api(self, name, **query):
        status, _, body = self.get(f"api/{name}" + (f"?{urllib.parse.urlencode(query)}" if query else ""))
        assert status == 200, body
        return json.loads(body)
