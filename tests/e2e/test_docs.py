# SPDX-License-Identifier: Apache-2.0
"""The pages say what the programs say, and lead where they claim to."""

import os
import re
import subprocess

import pytest

from support.programs import ROOT
from support.system import run

PAGES = sorted(
    [f"docs/{n}" for n in os.listdir(f"{ROOT}/docs") if n.endswith(".md")]
    + ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/bench/README.md"]
)


def read(name):
    with open(f"{ROOT}/{name}") as f:
        return f.read()


def test_settings_are_what_the_programs_print(build):
    page = run(["bash", f"{ROOT}/docs/settings.sh", build]).stdout
    assert read("docs/settings.md") == page, "docs/settings.sh BUILD >docs/settings.md"


def test_reasons_are_what_brumactl_prints(build):
    page = run([f"{build}/ctl/brumactl", "reasons", "--markdown"]).stdout
    assert read("docs/reasons.md") == page, "brumactl reasons --markdown >docs/reasons.md"


def test_pod_counters_are_the_list_of_the_header():
    page, table = read("docs/maps.md"), run(["bash", f"{ROOT}/docs/pod-counters.sh"]).stdout
    names = re.findall(r"^\| `(\w+)`", table, re.M)
    assert len(names) >= 9 and names == re.findall(
        r"BRUMA_POD_COUNTER\((\w+), \"", read("include/bruma/maps.h")
    )
    assert table in page, "docs/pod-counters.sh prints the table of docs/maps.md"
    dump = page[page.index("/maps/pod_counters key") : page.index(table)]
    assert re.findall(r'^ +"(\w+)": \d', dump, re.M)[1:] == names, "the dump that the page shows"
    header = read("include/bruma/direct.h")
    for which, macro in (
        ("direct", r"BRUMA_DIRECT_COUNTER\((\w+), \""),
        ("long", r"BRUMA_LONG_WAY\([A-Z_]+, (\w+), \""),
    ):
        table = run(["bash", f"{ROOT}/docs/pod-counters.sh", which]).stdout
        assert re.findall(r"^\| `(\w+)`", table, re.M) == re.findall(macro, header)
        assert table in page, f"docs/pod-counters.sh {which}"


def test_a_map_of_the_programs_is_defined_once():
    maps = [
        (name, file)
        for file in os.listdir(f"{ROOT}/bpf")
        if file.endswith((".c", ".h"))
        for name in re.findall(r"^} (\w+) SEC\(\"\.maps\"\)", read(f"bpf/{file}"), re.M)
    ]
    names = [name for name, _ in maps]
    assert len(names) > 10 and sorted(names) == sorted(set(names)), maps


def test_the_picture_of_the_floors_is_what_its_script_prints():
    picture = run(["/usr/bin/python3", f"{ROOT}/tests/floors/picture.py"]).stdout
    assert read("docs/pictures/floors.svg") == picture, "tests/floors/picture.py >docs/pictures/floors.svg"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path = os.path.join(ROOT, os.path.dirname(page), target.partition("#")[0])
        assert os.path.exists(path), f"{page} links to {target}"


def test_every_page_can_be_found_from_the_readme():
    seen, wait = set(), ["README.md"]
    while wait:
        page = wait.pop()
        if page in seen or not os.path.isfile(f"{ROOT}/{page}") or not page.endswith(".md"):
            continue
        seen.add(page)
        wait += [
            os.path.relpath(os.path.join(ROOT, os.path.dirname(page), t.partition("#")[0]), ROOT)
            for t in re.findall(r"\]\(([^)\s]+)\)", read(page))
            if not re.match(r"[a-z]+:", t)
        ]
    assert sorted(set(PAGES) - seen) == []


def test_sections_of_the_contract_that_code_names_exist():
    sections = set(re.findall(r"^##+ ([0-9.]+[0-9]|[0-9]+)\.? ", read("docs/contract.md"), re.M))
    named = []
    for file in run(["git", "-C", ROOT, "ls-files", "*.c", "*.h", "*.py", "docs/*.md"]).stdout.split():
        for numbers in re.findall(
            r"\b[Cc]ontract(?: sections?|,)? ((?:\d+(?:\.\d+)?(?:, | and | to )?)+)", read(file)
        ):
            named += [(file, n) for n in re.findall(r"\d+(?:\.\d+)?", numbers)]
    assert len(named) > 40
    assert [(f, n) for f, n in named if n not in sections] == []


def test_tests_that_conformance_names_exist():
    names = re.findall(r"`((?:tests/unit/)?[\w/]+\.(?:py|c))(?:::(\w+))?", read("docs/conformance.md"))
    assert len(names) > 20
    for file, test in names:
        path = f"{ROOT}/{file}" if file.startswith("tests/") else f"{ROOT}/tests/e2e/{file}"
        with open(path) as f:
            assert re.search(rf"^def {test.rstrip('_')}", f.read(), re.M) if test else True, f"{file}::{test}"


@pytest.mark.parametrize(
    ("file", "program"), [("agent", "agent/bruma-agent"), ("proxy", "proxy/bruma-proxy")]
)
def test_settings_of_the_sample_files_exist(build, file, program):
    """packaging/etc: every variable, commented out or not, is one of the program's."""
    known = subprocess.run([f"{build}/{program}", "--help"], capture_output=True, text=True).stdout
    for name in re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", read(f"packaging/etc/{file}.env"), re.M):
        assert name in known, name


@pytest.mark.parametrize(
    ("page", "program"),
    [
        ("bruma-agent", "agent/bruma-agent"),
        ("bruma-proxy", "proxy/bruma-proxy"),
        ("brumactl", "ctl/brumactl"),
    ],
)
def test_options_of_the_manual_pages_exist(build, page, program):
    """Of the program itself, or of one that the page is about too."""
    known = "".join(
        subprocess.run([f"{build}/{name}", "--help"], capture_output=True, text=True).stdout
        for name in ([program] if page != "brumactl" else ["agent/bruma-agent", "ctl/brumactl"])
    )
    if page == "brumactl":
        known += read("ctl/completion/_brumactl")
    found = set(re.findall(r"\bFl -([a-z][a-z-]+)", read(f"docs/man/{page}.8").replace("\\-", "-")))
    assert found
    for option in found - {"help", "version", "option"}:
        assert f"--{option}" in known, option


def test_formats_of_the_manual_pages():
    for page in ("bruma-agent", "bruma-proxy", "bruma-cni", "brumactl"):
        text = read(f"docs/man/{page}.8")
        assert ".Dt " in text and ".Sh NAME" in text, page


def test_the_readme_stops_what_it_has_started_before_it_uninstalls():
    """An agent that runs, or starts with the next boot, would put everything back."""
    page = read("README.md")
    uninstalls = page.index("\n    bruma-agent --uninstall")
    stopped = re.search(r"^    systemctl disable --now (.*)$", page[:uninstalls], re.M)[1].split()
    units = [f[: -len(".service.in")] for f in os.listdir(f"{ROOT}/packaging") if f.endswith(".service.in")]
    assert sorted(stopped) == sorted(units)


def test_the_proxy_takes_its_command_word_in_front_of_help(build):
    program = f"{build}/proxy/bruma-proxy"
    assert (
        run([program, "proxy", "--help"]).stdout.splitlines()[2:]
        == run([program, "--help"]).stdout.splitlines()[2:]
    )


def test_a_variable_of_ztunnel_that_cannot_be_served_is_named(build):
    r = subprocess.run(
        [f"{build}/proxy/bruma-proxy", "proxy"],
        env={"COMPLIANCE_POLICY": "fips-140-2"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert r.returncode == 1 and "COMPLIANCE_POLICY" in r.stderr and "fips-140-2" in r.stderr
