# SPDX-License-Identifier: Apache-2.0
"""dig in a pod's network namespace, which asks the cluster's server."""

import re

from plan import CONTROL4


def ask(pod, *question):
    return pod.run("dig", "+time=3", "+tries=1", f"@{CONTROL4}", *question, check=False).stdout


def flags(out):
    return re.search(r"flags: ([^;]*);", out)[1].split() if "flags: " in out else []
