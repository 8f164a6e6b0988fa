#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes docs/pictures/dashboard-*.png anew, by a browser that looks at the dashboard of a lab that is up (tests/lab.sh --keep):
tests/lab/pictures.py --build BUILD"""

import argparse
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "lab")]

import world  # noqa: E402

EXPLAINED = """
const [from, to] = document.querySelectorAll('form input');
if (!from.value) {
  from.value = 'visitors/intruder';
  to.value = '10.71.2.10:8080';
  document.querySelector('form button').click();
}
return document.querySelector('.stages') !== null;
"""
# Which tab, and whether it has what is to be seen.
PICTURES = {
    "graph": "return document.querySelectorAll('.drawing .node').length > 3",
    "explain": EXPLAINED,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    os.environ["BRUMA_BUILD"] = os.path.abspath(parser.parse_args().build)
    from support.browser import browser  # noqa: PLC0415, as BRUMA_BUILD is read at the import
    from support.dashboard import Dashboard  # noqa: PLC0415
    from support.system import wait_for  # noqa: PLC0415

    with (
        tempfile.TemporaryDirectory() as directory,
        Dashboard(directory, "--run-dir", f"{world.RUN}/n1/run") as dashboard,
        browser(directory, size=(1000, 760)) as driver,
    ):
        driver.get(dashboard.url)
        for name, ready in PICTURES.items():
            driver.execute_script("document.getElementById('tab-' + arguments[0]).click()", name)
            wait_for(lambda ready=ready: driver.execute_script(ready), f"the picture of {name}")
            driver.save_screenshot(str(ROOT / "docs" / "pictures" / f"dashboard-{name}.png"))


if __name__ == "__main__":
    main()
