# SPDX-License-Identifier: Apache-2.0
"""The page of `brumactl dashboard` in a real browser: what it shows of a real mesh."""

import contextlib

import pytest

from support.browser import browser, press
from support.dashboard import Dashboard
from support.kube.forwarder import Forwarder
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import Failed, wait_for

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def mesh():
    """web talks with shop; thief is refused; plain is no part of the mesh."""
    with Mesh(nodes=1, agent_options=("--ready-port", "8000")) as m:
        m.web, m.shop, m.thief, m.odd = (m.pod(name) for name in ("web", "shop", "thief", "odd"))
        m.plain = m.pod("plain", namespace="outside")
        m.odd.more = {"workloadName": HOSTILE, "canonicalName": HOSTILE}
        m.plain.outside = True
        m.nameless = m.pod("nameless")
        m.nameless.more = {"workloadName": "", "canonicalName": ""}
        m.deny(m.thief.rule())
        m.start()
        m.shop.server(ECHO, "8080")
        m.plain.server(ECHO, "8080")
        yield m


@pytest.fixture(scope="module")
def traffic(mesh):
    def once():
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
        assert mesh.web.python(ONE_SHOT, mesh.plain.ip, 8080, "x") == "x"
        assert mesh.odd.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
        assert mesh.nameless.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
        with contextlib.suppress(Failed):
            mesh.thief.python(ONE_SHOT, mesh.shop.ip, 8080, "x")
            pytest.fail("the policy has not refused it")

    once()
    return once


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
    return page.execute_script(
        "const e = document.querySelector(arguments[0]); return e?.checkVisibility() ? e.innerText ?? e.textContent : ''",
        selector,
    )


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


def edge(page, start, end, kind):
    """The text of an edge of the graph."""
    return page.execute_script(
        "const [from, to, kind] = arguments;"
        "return [...document.querySelectorAll('.edge')].find(e => e.dataset.from === from && e.dataset.to === to"
        " && e.dataset.kind === kind)?.textContent",
        start,
        end,
        kind,
    )


def test_the_graph_has_what_was_allowed_and_refused(mesh, page, traffic):
    web, shop, thief = ("w/demo/" + name for name in ("web", "shop", "thief"))
    see(page, "demo/web", ".drawing")
    traffic()
    wait_for(lambda: "encrypted" in (edge(page, web, shop, "encrypted") or ""), "the allowed edge")
    wait_for(lambda: "✕ refused" in (edge(page, thief, shop, "refused") or ""), "the refused edge")
    wait_for(lambda: "policy_denied" in edge(page, thief, shop, "refused"), "its reason")
    wait_for(lambda: "plaintext" in (edge(page, web, "outside", "plaintext") or ""), "the plaintext edge")
    wait_for(
        lambda: edge(page, "i/demo/nameless", shop, "encrypted"), "the edge of a workload without a name"
    )
    assert edge(page, thief, shop, "encrypted") is None
    see(page, "refused", "tbody")
    line = page.execute_script(
        "return ['encrypted', 'plaintext', 'refused'].map(k => getComputedStyle("
        "document.querySelector('.drawing .edge.' + k + ' path')).strokeDasharray)"
    )
    assert len(set(line)) == 3, "told apart without colour"


def test_the_graph_by_keyboard(page, traffic):
    see(page, "demo/web", ".drawing")
    page.execute_script("document.querySelector('.node[data-id=\"w/demo/thief\"]').focus()")
    press(page, "ENTER")
    far = page.execute_script("return [...document.querySelectorAll('.edge.far')].map(e => e.dataset.from)")
    assert far and "w/demo/thief" not in far
    see(page, "demo/thief", ".drawing .chosen")


def test_flows_as_they_happen_and_one_explained(mesh, page, traffic):
    open_tab(page, "flows")
    traffic()
    see(page, "policy_denied", "tbody")
    refused = page.execute_script(
        "const row = [...document.querySelectorAll('tbody tr')].find(r => r.innerText.includes('demo/thief')"
        " && r.innerText.includes('policy_denied')); row.click(); return true"
    )
    assert refused
    see(page, "✕ wrong verdict", ".stages")
    see(page, "policy_denied", ".stages")
    steps = text(page, ".stages")
    order = [
        steps.index(words)
        for words in ("The pod that connects", "The kernel of its node", "The proxy of its node", "Policies")
    ]
    assert order == sorted(order), steps
    assert not [
        line for line in text(page, ".stages").splitlines() if line.strip() in ("0", "false", "undefined")
    ]


def test_a_pair_of_pods_explained(mesh, page):
    open_tab(page, "explain")
    press(page, "TAB")
    page.execute_script("document.querySelector('[name=from]').focus()")
    press(page, "demo/web")
    press(page, "TAB")
    press(page, "demo/shop:8080")
    press(page, "ENTER")
    see(page, "through HBONE", ".stages")
    see(page, "Nothing is wrong on the way.")


def test_hostile_names_are_texts(mesh, page, traffic):
    """Of a workload, in the graph and its table; and of a question."""
    traffic()
    see(page, f"demo/{HOSTILE}", "tbody")
    names = "return [...document.querySelectorAll('.node')].map(e => e.getAttribute('aria-label'))"
    wait_for(lambda: f"workload demo/{HOSTILE}" in page.execute_script(names), "the node of the graph")
    open_tab(page, "explain")
    page.execute_script("document.querySelector('[name=from]').value = arguments[0]", f"demo/{HOSTILE}")
    page.execute_script("document.querySelector('form button').click()")
    see(page, HOSTILE, "main")
    assert page.title == "Bruma" and not page.execute_script("return document.querySelectorAll('img').length")


# Of each pod and each series of the real answers many are made, before the page gets them.
CROWD = """
const real = window.fetch;
window.longest = 0;
new PerformanceObserver(list => list.getEntries().forEach(e => { window.longest = Math.max(window.longest, e.duration); }))
  .observe({type: 'longtask', buffered: true});
window.fetch = async (address, options) => {
  const answer = await real(address, options), path = String(address).split('?')[0];
  if (path !== 'api/pods' && path !== 'api/traffic') return answer;
  const reply = await answer.json();
  const times = (list, fn) => Array.from({length: 2000}, (_, i) => fn(list[i % list.length], i));
  reply.answer = path === 'api/pods'
    ? times(reply.answer, (pod, i) => ({...pod, uid: `u${i}`, name: `${pod.name}-${i}`}))
    : reply.answer.concat(times(reply.answer.filter(l => l.includes('source_workload="')), (line, i) =>
        line.replace(/source_workload="[^"]*"/, `source_workload="w${i % 400}"`)
            .replace(/destination_workload="[^"]*"/, `destination_workload="w${(i * 7) % 400}"`)));
  return new Response(JSON.stringify(reply), {status: 200});
};
"""


def test_two_thousand_pods(mesh, chromium, dashboard, traffic):
    script = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": CROWD})
    try:
        chromium.set_window_size(1280, 900)
        chromium.get("about:blank")
        chromium.get(dashboard.url)
        see(chromium, "busiest are drawn", "main")
        assert chromium.execute_script("return document.querySelectorAll('.drawing .node').length") == 80
        open_tab(chromium, "pods")
        see(chromium, "2000 rows", "main")
        assert len(rows(chromium)) < 60, "only what is seen exists"
        chromium.execute_script("document.querySelector('table').focus()")
        press(chromium, "END")
        wait_for(lambda: any("-1999" in row for row in rows(chromium)), "the last pod")
        press(chromium, "PAGE_UP", 20)
        chromium.execute_script("document.querySelector('[type=search]').focus()")
        press(chromium, "-1996")
        see(chromium, "1 of 2000 rows", "main")
        # Two rounds of answers and all of this: no step keeps the page from answering for long.
        assert chromium.execute_script("return window.longest") < 500, "milliseconds"
    finally:
        chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_certificates_and_cost(mesh, page, traffic):
    open_tab(page, "certificates")
    see(page, mesh.web.identity, "tbody")
    assert any("in 23 h" in row or "in 24 h" in row for row in rows(page))
    open_tab(page, "nodes")
    see(page, "proxy serving", "tbody")
    wait_for(lambda: any(" MiB" in row for row in rows(page)), "the memory of the proxy")


def test_it_outlives_the_agent_and_the_proxy(mesh, page, traffic):
    open_tab(page, "pods")
    see(page, "demo/web", "tbody")
    node = mesh.nodes[0]
    node.agent.kill()
    see(page, "does not answer", "#trouble")
    see(page, "1 of them does not answer", "#summary")
    assert "demo/web" in text(page, "tbody"), "the last that is known stays"
    node.start_agent("--ready-port", "8000")
    see(page, "no other problem", "#summary")
    open_tab(page, "flows")
    traffic()
    see(page, "policy_denied", "tbody")


def test_a_node_of_a_cluster_that_does_not_answer(mesh, chromium, tmp_path):
    with (
        Forwarder(tmp_path / "api", mesh.nodes) as api,
        Dashboard(tmp_path, "--kubeconfig", api.kubeconfig()) as d,
    ):
        chromium.get(d.url)
        open_tab(chromium, "pods")
        see(chromium, "demo/web", "tbody")
        assert any("node1" in row for row in rows(chromium))
        api.faults["agent-node1"] = "refuse"
        see(chromium, "Node node1: does not answer", "#trouble")
        see(chromium, "cannot create resource", "#trouble")
        see(chromium, "not known now, was enrolled", "tbody")
        del api.faults["agent-node1"]
        see(chromium, "1 node, no other problem", "#summary")
        api.faults["proxy-node1"] = "refuse"
        open_tab(chromium, "certificates")
        see(chromium, "Node node1: the proxy does not answer", "#trouble")
        del api.faults["proxy-node1"]
        open_tab(chromium, "pods")
        see(chromium, "1 node, no other problem", "#summary")
        chromium.get("about:blank")


def test_as_wide_as_a_phone(page, traffic):
    page.set_window_size(400, 800)
    for name in ("graph", "pods", "flows", "explain", "certificates", "nodes"):
        open_tab(page, name)
        if name in ("pods", "graph"):
            see(page, "demo/web", "main")
        wide = page.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth,"
            " [...document.querySelectorAll('body *')].filter(e => !e.closest('.drawing, .skip, svg')"
            " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))]"
        )
        assert wide[0] <= wide[1] and not wide[2], (name, wide)
    open_tab(page, "pods")
    see(page, "enrolled", "tbody")
    titles = page.execute_script(
        "return [...document.querySelector('tbody tr:not(.gap)').children].filter(e => e.checkVisibility())"
        ".map(e => getComputedStyle(e, '::before').content)"
    )
    assert titles == [f'"{title}: "' for title in ("Pod", "State", "Reason", "Node")]


def test_the_end_of_brumactl_is_said(mesh, chromium, tmp_path):
    with Dashboard(tmp_path, "--run-dir", mesh.nodes[0].run_dir) as d:
        chromium.get(d.url)
        see(chromium, "1 node", "#summary")
        assert not text(chromium, "#offline")
    see(chromium, "brumactl does not answer", "#offline")
    chromium.get("about:blank")
    chromium.get_log("browser")  # complaints of connections that are refused


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
