# SPDX-License-Identifier: Apache-2.0
"""brumactl as an operator calls it, with a kubeconfig."""

import os
import subprocess

from support.programs import program


def ctl(*argv, kubeconfig=None, check=None, env=None, name="brumactl", **options):
    argv = [program("brumactl"), *argv, *(["--kubeconfig", kubeconfig] if kubeconfig else [])]
    r = subprocess.run(
        [name, *argv[1:]],
        executable=argv[0],
        capture_output=True,
        text=True,
        timeout=60,
        env={**{k: v for k, v in os.environ.items() if k != "KUBECONFIG"}, "HOME": "/nowhere", **(env or {})},
        **options,
    )
    if check is not None:
        assert r.returncode == check, r.stdout + r.stderr
    return r
