"""The dashboard in Debian's Chromium, on three real nodes: a failover seen live, a narrow screen, what axe finds.

`make browser` installs what this takes and runs it; without Chromium, playwright or axe-core it is left out.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.worlds.waiting import wait_for

playwright = pytest.importorskip("playwright.sync_api", reason="make browser installs playwright")
CHROMIUM = shutil.which("chromium")
AXE = Path(os.environ.get("FORGE_AXE", ".venv/axe/axe.min.js"))
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="make browser installs Chromium"),
    pytest.mark.timeout(300),
]
SECTIONS = ("overview", "members", "events", "keys", "snapshots", "settings")
SECONDS = 30_000
"""How long the browser waits for something, in its own unit, milliseconds."""


class Site:
    """Three nodes with their dashboards, and a browser."""

    def __init__(self, cluster: LocalCluster, browser: Any) -> None:
        self.cluster = cluster
        self.browser = browser
        self.faults: list[str] = []
        """What the pages complained of: errors of scripts, and what the content-security policy refused."""

    def node(self, name: str) -> NodeProcess:
        """A node's process."""
        found = self.cluster.nodes[name]
        assert isinstance(found, NodeProcess)
        return found

    def url(self, name: str) -> str:
        """Where a node serves its dashboard."""
        return str(re.findall(r"(http://\S+/)$", self.node(name).output(), re.MULTILINE)[-1])

    def page(self, name: str, width: int = 1280, scheme: str = "light", script: str = "") -> Any:
        """The dashboard of a node in a window of its own."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.set_default_timeout(SECONDS)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: self.faults.append(f"{error}"))
        page.on("console", lambda line: self.faults.append(line.text) if "Content Security" in line.text else None)
        page.goto(self.url(name))
        page.wait_for_selector("#health[data-health]")
        return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A healthy cluster and a browser."""
    folder = tmp_path_factory.mktemp("site")
    with (
        LocalCluster(folder=folder, cluster_id="site", extra_args=("--http", "127.0.0.1:0")) as cluster,
        playwright.sync_playwright() as started,
    ):
        cluster.wait_for_leader()
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        made = Site(cluster, browser)
        yield made
        browser.close()
        assert made.faults == []


def leader_of(page: Any, *others: str) -> str:
    """The leader that a page shows, if it is none of the others."""
    name = page.get_attribute("#leader", "data-leader")
    return name if name and name not in others else ""


def test_a_failover_is_seen_live(site: Site) -> None:
    leader = site.cluster.wait_for_leader()
    follower = next(name for name in site.cluster.nodes if name != leader)
    page = site.page(follower)
    page.wait_for_selector('#health[data-health="healthy"]')
    assert leader_of(page) == leader
    assert page.text_content("#spare").strip()
    page.wait_for_selector(f'[data-node="{leader}"][data-leader]')
    site.node(leader).kill()
    page.wait_for_selector(f'[data-node="{leader}"][data-state="no answer"]')
    page.wait_for_selector('#health[data-health="degraded"]')
    next_leader = wait_for(lambda: leader_of(page, leader), 20, "another node leads, as the page shows it")
    page.wait_for_selector(f'[data-node="{next_leader}"][data-leader]')
    page.wait_for_selector("#warnings:not([hidden])")
    assert leader in page.text_content("#warnings")
    page.goto(f"{page.url.partition('#')[0]}#events")
    page.wait_for_selector("#events-list >> text=elected")
    site.node(leader).start()
    page.goto(f"{page.url.partition('#')[0]}#overview")
    page.wait_for_selector('#health[data-health="healthy"]')
    page.context.close()


def test_a_page_without_its_node_says_so(site: Site) -> None:
    leader = site.cluster.wait_for_leader()
    follower = next(name for name in site.cluster.nodes if name != leader)
    page = site.page(follower)
    site.node(follower).pause()
    page.wait_for_selector("#stale:not([hidden])")
    site.node(follower).resume()
    page.wait_for_selector("#stale[hidden]", state="attached")
    page.context.close()


def test_a_removal_shows_its_arithmetic_and_is_not_done_by_one_click(site: Site) -> None:
    leader = site.cluster.wait_for_leader()
    page = site.page(leader)
    page.goto(f"{page.url.partition('#')[0]}#members")
    other = next(name for name in site.cluster.nodes if name != leader)
    page.get_by_role("button", name=f"Remove: {other}").click()
    page.wait_for_selector("dialog[open] #plan-table")
    table = page.text_content("#plan-table")
    assert "Needed for a majority" in table and "May fail" in table
    confirm = page.locator("dialog[open] .dialog-buttons button").last
    assert confirm.is_disabled(), "the node's id must be typed first"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    with site.cluster.client() as client:
        assert len(client.members().members) == 3
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_360_pixels(site: Site, scheme: str) -> None:
    page = site.page(site.cluster.wait_for_leader(), 360, scheme)
    for section in SECTIONS:
        page.goto(f"{page.url.partition('#')[0]}#{section}")
        page.wait_for_selector(f"#page-{section}:not([hidden])")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{section} is {width} pixels wide"
        if folder := os.environ.get("FORGE_PICTURES"):
            page.screenshot(path=f"{folder}/{section}-360-{scheme}.png", full_page=True)
    page.context.close()


def test_the_keyboard_reaches_the_content_and_every_section(site: Site) -> None:
    page = site.page(site.cluster.wait_for_leader())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    links = page.locator("#sections a")
    assert links.count() == len(SECTIONS)
    for place in range(links.count()):
        links.nth(place).focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#page-{SECTIONS[place]}:not([hidden])")
    page.context.close()


@pytest.mark.skipif(not AXE.exists(), reason="make browser fetches axe-core")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_axe_finds_nothing(site: Site, width: int, scheme: str) -> None:
    page = site.page(site.cluster.wait_for_leader(), width, scheme, AXE.read_text())
    addresses = [f"#{section}" for section in SECTIONS] + ["docs"]
    for address in addresses:
        page.goto(f"{page.url.partition('#')[0].removesuffix('docs')}{address}")
        page.wait_for_load_state("load")
        page.wait_for_timeout(500)
        found = page.evaluate("axe.run().then(result => result.violations.map(each => [each.id, each.nodes[0].html]))")
        assert found == [], f"{address} at {width} pixels, {scheme}"
    page.context.close()
