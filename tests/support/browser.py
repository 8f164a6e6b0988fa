# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, by selenium. Where there is none, what imports this is skipped, and says what is missing."""

import contextlib
import os
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: package python3-selenium")
service = pytest.importorskip(
    "selenium.webdriver.chrome.service", reason="no selenium: package python3-selenium"
)

PROGRAM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
if not os.path.exists(PROGRAM) or not os.path.exists(DRIVER):
    pytest.skip(
        "no Chromium: packages chromium and chromium-driver, which Ubuntu has as snaps only",
        allow_module_level=True,
    )


@contextlib.contextmanager
def browser(directory, size=(1280, 900)):
    """With a profile of its own in the directory. What the page complains of on the console is an error at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAM
    for word in (
        "headless=new",
        "no-sandbox",  # root's
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-proxy-server",
        "force-device-scale-factor=1",
        f"user-data-dir={directory}/profile",
        f"window-size={size[0]},{size[1]}",
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    home = f"{directory}/home"
    os.makedirs(home, exist_ok=True)
    env = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": home}
    driver = webdriver.Chrome(service=service.Service(DRIVER, env=env), options=options)
    try:
        driver.set_script_timeout(30)
        yield driver
        wrong = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not wrong, wrong
    finally:
        driver.quit()
        shutil.rmtree(f"{directory}/profile", ignore_errors=True)


def press(driver, key, times=1):
    """A key by its name in selenium, or a text."""
    chain = webdriver.ActionChains(driver)
    for _ in range(times):
        chain.send_keys(getattr(webdriver.Keys, key, key))
    chain.perform()
