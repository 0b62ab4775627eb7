"""The dashboard of a node that asks who somebody is, in Debian's Chromium: it asks for a token, once, and forgets it.

See `test_dashboard` for what it takes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import ConsensusExtension
from tests.worlds.certified import CLUSTER, CertifiedFolder

playwright = pytest.importorskip("playwright.sync_api", reason="make browser installs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="make browser installs Chromium"),
    pytest.mark.timeout(300),
]
ANY = "127.0.0.1:0"


class Site:
    """A node that asks, and a page of its dashboard."""

    def __init__(self, folder: CertifiedFolder, url: str, page: Any) -> None:
        self.folder = folder
        self.url = url
        self.page = page

    def give(self, name: str) -> None:
        """Type a token into the dialog."""
        self.page.fill("#token", self.folder.tokens[name])
        self.page.click("#dialog-token button[type=submit]")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A cluster of one over TLS, and a browser whose page has not been opened."""
    folder = CertifiedFolder(tmp_path)
    extension = ConsensusExtension(
        node_id="n1",
        cluster_id=CLUSTER,
        bind=ANY,
        storage_path=str(tmp_path / "data"),
        security=folder.security(),
        admin_api={"bind": ANY, "enable_auth": True},
    )
    with extension, playwright.sync_playwright() as started:
        extension.service.put("greeting", "hello")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(ignore_https_errors=True, accept_downloads=True)
        context.set_default_timeout(30_000)
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(f"{error}"))
        page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
        assert extension.admin is not None
        yield Site(folder, extension.admin.url, page)
        browser.close()
        assert faults == []


def test_the_page_asks_for_a_token_and_shows_then_what_it_allows(site: Site) -> None:
    page = site.page
    page.goto(site.url)
    page.wait_for_selector("#dialog-token")
    assert CLUSTER not in page.content(), "strangers are told nothing"
    site.give("unknown")
    page.wait_for_selector("#dialog-token >> text=does not take the token")
    site.give("admin")
    page.wait_for_selector("#health[data-health=healthy]")
    assert page.locator("#signin").inner_text() == "Sign out"
    page.goto(f"{site.url}#events")
    page.wait_for_selector("#events-list >> text=elected")  # by a stream that sends the token
    page.goto(f"{site.url}#keys")
    page.wait_for_selector("#page-keys >> text=greeting")
    page.goto(f"{site.url}#snapshots")
    with page.expect_download() as download:
        page.click("#backup-download")
    assert download.value.suggested_filename.endswith(".snap")
    assert Path(download.value.path()).stat().st_size > 0


def test_a_token_is_kept_for_its_tab_only_and_forgotten_when_somebody_signs_out(site: Site) -> None:
    page = site.page
    page.goto(site.url)
    page.wait_for_selector("#dialog-token")
    site.give("read")
    page.wait_for_selector("#health[data-health=healthy]")
    page.reload()
    page.wait_for_selector("#health[data-health=healthy]")
    assert page.locator("#dialog-token").count() == 0
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.click("#signin")
    page.wait_for_selector("#stale:not([hidden]) >> text=not authenticated")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_page_that_was_cancelled_asks_no_more_by_itself(site: Site) -> None:
    page = site.page
    page.goto(site.url)
    page.wait_for_selector("#dialog-token")
    page.click("#dialog-token [data-action=cancel]")
    page.wait_for_timeout(3000)
    assert page.locator("#dialog-token").count() == 0
    page.click("#signin")
    page.wait_for_selector("#dialog-token")
