# SPDX-License-Identifier: Apache-2.0
"""The page of `brumactl dashboard` in a real browser: what it shows of a real mesh."""

import pytest

from support.browser import browser, press
from support.dashboard import Dashboard
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.system import wait_for


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


@pytest.fixture(scope="module")
def dashboard(mesh):
    with Dashboard(mesh.dir, "--run-dir", mesh.nodes[0].run_dir) as d:
        yield d


@pytest.fixture(scope="module")
def chromium(mesh):
    with browser(mesh.dir) as driver:
        yield driver


@pytest.fixture
def page(chromium, dashboard):
    chromium.set_window_size(1280, 900)
    chromium.get("about:blank")
    chromium.get(dashboard.url)
    return chromium


def text(page, selector="body"):
    return page.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)


def see(page, words, selector="body", timeout=15):
    wait_for(lambda: words in text(page, selector), f'"{words}" in the page', timeout)


def focused(page):
    return page.execute_script("return document.activeElement.id || document.activeElement.tagName")


def rows(page):
    return page.execute_script(
        "return [...document.querySelectorAll('tbody tr:not(.gap)')].map(r => r.innerText)"
    )


def open_tab(page, name):
    page.execute_script("document.getElementById('tab-' + arguments[0]).click()", name)


def test_pods_with_state_and_reason(mesh, page):
    open_tab(page, "pods")
    see(page, "demo/web", "tbody")
    (web,) = [row for row in rows(page) if "demo/web" in row]
    assert "enrolled" in web and "istio.io/dataplane-mode=ambient" in web
    see(page, "1 node, no other problem", "#summary")


def test_by_keyboard_alone(mesh, page):
    see(page, "1 node")
    for _ in range(12):
        press(page, "TAB")
        if focused(page).startswith("tab-"):
            break
    while focused(page) != "tab-pods":
        press(page, "ARROW_RIGHT")
    see(page, "demo/web", "tbody")
    for _ in range(12):
        press(page, "TAB")
        if focused(page) == "TABLE":
            break
    press(page, "HOME")
    press(page, "ARROW_DOWN")
    press(page, "ENTER")
    see(page, rows(page)[1].split()[0], ".panel h2")
    see(page, "spiffe://", ".panel")
    assert focused(page) == "H2"
