"""The pages for people, over a real tree and in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from coreimage.pages import write_pages
from coreimage.publication import expire_builds, parse_build_id, pin_build
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import ChannelTree, alias_channel, hide_channel, pin_version, remove_channel, verify_store
from tests.harness.grown_tree import CHANNEL, DEVICE, START, TREE, grow
from tests.harness.serving import serving

INDEX = "index.html"
CHANNEL_PAGE = f"system-image/{CHANNEL}/index.html"
DEVICE_PAGE = f"system-image/{CHANNEL}/{DEVICE}/index.html"
BUILDS_PAGE = f"{TREE.prefix}/index.html"
BUILD_PAGE = f"{TREE.prefix}/20261105/index.html"
PAGES = (INDEX, CHANNEL_PAGE, DEVICE_PAGE, BUILDS_PAGE, BUILD_PAGE)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, signer: GnupgSigner) -> DirectoryStore:
    """Four days of builds, and their pages."""
    store = DirectoryStore(tmp_path_factory.mktemp("grown"))
    grow(store, signer, 4)
    now = START + timedelta(days=9)
    pin_build(TREE, parse_build_id("20261105"), "shown at the fair, so it stays", store=store, now=now)
    pin_version(ChannelTree(store, signer, lambda: now), CHANNEL, DEVICE, 3, "13.1")
    write_pages(store=store)
    return store


@pytest.fixture(scope="module")
def address(grown: DirectoryStore) -> Iterator[str]:
    with serving(grown) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


def text(store: DirectoryStore, key: str) -> str:
    with store.open(key) as file:
        return file.read().decode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_everybody_can_read_them_on_phone_and_desktop(address: str, browser: Browser, scheme: str, width: int) -> None:
    """axe is put into the page, so the page's own policy against scripts is lifted for it."""
    with browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 800},
        bypass_csp=True,
    ) as context:
        page = context.new_page()
        for key in PAGES:
            page.goto(f"{address}/{key}")
            for details in page.locator("details").all():
                details.evaluate("element => element.open = true")
            found = Axe().run(page)
            assert found.violations_count == 0, f"{key}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{key} scrolls sideways"
            _shot(page, f"{key.replace('/', '_')}-{scheme}-{width}")


def _shot(page: Page, name: str) -> None:
    """For people who want to look: COREIMAGE_SCREENSHOTS names a folder."""
    if folder := os.environ.get("COREIMAGE_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"))


def test_every_link_leads_somewhere_without_scripts(address: str, browser: Browser) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page, waiting, seen = context.new_page(), [f"{address}/"], set[str]()
        while waiting:
            url = waiting.pop()
            if url in seen:
                continue
            seen.add(url)
            if not url.endswith(("/", ".html")):
                assert context.request.head(url).status == 200, url
                continue
            assert page.goto(url)
            links = [str(link.get_attribute("href")) for link in page.get_by_role("link").all()]
            waiting += [str(page.url).rsplit("/", 1)[0] + f"/{link}" for link in links]
            waiting = [_plain(link) for link in waiting]
        assert {_plain(f"{address}/{key}") for key in PAGES} <= seen


def _plain(url: str) -> str:
    """Without `..`."""
    scheme, host, path = url.split("/", 2)[0], url.split("/")[2], "/".join(url.split("/")[3:])
    return f"{scheme}//{host}{os.path.normpath('/' + path)}{'/' if path.endswith('/') or not path else ''}".replace(
        f"{host}//", f"{host}/"
    )


def test_a_device_page_says_what_people_come_for(address: str, browser: Browser, grown: DirectoryStore) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/{DEVICE_PAGE}")
        newest = page.locator("#version-4")
        said = newest.inner_text()
        for wanted in ("5 November 2026", "from 3", "boots with BIOS and UEFI", "20261105"):
            assert wanted in said, said
        newest.get_by_text("Packages:").click()
        changes = newest.locator(".changes").inner_text()
        assert "libc6 upgraded 2.41-12+deb13u1 → 2.41-12+deb13u2" not in changes, "only what changed since version 3"
        assert "upgraded" in changes
        sums = text(grown, f"images/{CHANNEL}/{DEVICE}/4/SHA256SUMS").splitlines()[1].split(" *")
        assert newest.get_by_text(sums[0]).is_visible()
        assert newest.get_by_role("link", name=sums[1]).is_visible()
        assert page.locator("svg rect.full").count() == 4
        assert page.locator("svg rect.part").count() == 3, "version 1 has no delta"


def test_a_build_page_has_every_listed_file_and_its_digest(grown: DirectoryStore) -> None:
    page = text(grown, BUILD_PAGE)
    for line in text(grown, f"{TREE.prefix}/20261105/SHA256SUMS").splitlines():
        sha256, name = line.split(" *")
        assert sha256 in page
        assert f">{name}</a>" in page


def test_the_tree_stays_whole(grown: DirectoryStore, signer: GnupgSigner) -> None:
    keyring = make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))
    found = verify_store(grown, keyring)
    assert (found.errors, [key for key in found.orphans if "html" in str(key)]) == ((), [])


def test_only_what_changed_is_written_and_what_is_gone_goes(tmp_path: Path, signer: GnupgSigner) -> None:
    store = DirectoryStore(tmp_path)
    grow(store, signer, 2)
    assert write_pages(store=store, channels=[CHANNEL], trees=[TREE]) == 6
    first = store.head(f"{TREE.prefix}/20261102/index.html")
    grow(store, signer, 1, first=2)
    assert write_pages(store=store, channels=[CHANNEL], trees=[TREE]) == 5
    assert store.head(f"{TREE.prefix}/20261102/index.html") == first, "its build did not change"

    def now() -> datetime:
        return START + timedelta(days=3)

    tree = ChannelTree(store, signer, now)
    alias_channel(tree, "debian-core/13/latest", CHANNEL)
    hide_channel(tree, CHANNEL)
    write_pages(store=store, channels=[CHANNEL], trees=[])
    assert "20261104" in text(store, f"system-image/debian-core/13/latest/{DEVICE}/index.html"), "aliases follow"
    assert f"{TREE.prefix}/20261104/index.html" in text(store, DEVICE_PAGE), (
        "its build is found, whose pages were not asked for"
    )
    later = START + timedelta(days=40)
    assert expire_builds(TREE, keep_count=1, keep_days=1, store=store, now=later) == ("20261102", "20261103")
    write_pages(store=store)
    index = text(store, INDEX)
    assert "debian-core/13/latest" in index
    assert f">{CHANNEL}</a>" not in index, "it is hidden"
    assert "its build is no longer kept" in text(store, DEVICE_PAGE)
    remove_channel(tree, "debian-core/13/latest")
    write_pages(store=store)
    left = {info.key for info in store.list() if info.key.endswith(".html")}
    assert left == {INDEX, CHANNEL_PAGE, DEVICE_PAGE, BUILDS_PAGE, f"{TREE.prefix}/20261104/index.html"}
