"""Prefect's UI in a browser, over a real server: the form, a run while it goes on, and what it leaves to look at."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.harness.installed import Installed
from tests.operate.test_retry import GATED, boots_not

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
EDGE = "build-channel/tiny:1:edge"
_WITHIN_MS = 120_000
_CONSOLE_WIDTH = 320


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    expect.set_options(timeout=_WITHIN_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        page.set_default_timeout(_WITHIN_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def first(installed: Installed) -> str:
    """A run that has built the product for the first time."""
    run = installed.start(EDGE)
    installed.completed(run)
    return run


def picture(page: Page, installed: Installed, name: str) -> None:
    """For people, who see what no assertion asks for."""
    page.screenshot(path=installed.folder / f"pictures/{name}.png")


def form(page: Page, installed: Installed) -> None:
    deployment = installed.api(f"/deployments/name/{EDGE}")["id"]
    page.goto(f"{installed.urls['ui']}/deployments/deployment/{deployment}/run")
    expect(page.get_by_text("The only devices to build; empty builds all devices of the channel.")).to_be_visible()


def test_the_form_offers_what_the_project_has_and_says_what_it_means(page: Page, installed: Installed) -> None:
    form(page, installed)
    for text in ("channel", "The channel to build.", "Run every task anew, even where its result is remembered."):
        expect(page.get_by_text(text, exact=True)).to_be_visible()
    assert "store_url" not in page.inner_text("body"), "where a worker works is no choice of whoever starts a run"
    devices = page.locator("button.p-select-button__control").nth(1)
    devices.press("ArrowDown")
    expect(page.locator(".p-select-option__text", has_text="box_amd64")).to_be_visible()
    devices.press("Enter")
    expect(devices).to_contain_text("board_amd64")
    picture(page, installed, "form")


def test_the_form_refuses_a_device_that_is_not_there(page: Page, installed: Installed) -> None:
    before = installed.api("/flow_runs/count", {})
    form(page, installed)
    page.locator("button:has(svg):right-of(:text-is('Parameters'))").first.click()
    page.get_by_text("Use JSON input").last.click()
    page.locator("textarea").fill('{"channel": "tiny/1/edge", "devices": ["toaster"]}')
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("'toaster' is not one of ['board_amd64', 'box_amd64']")).to_be_visible()
    picture(page, installed, "refused")
    assert installed.api("/flow_runs/count", {}) == before


def test_a_run_is_followed_while_it_goes_on(page: Page, installed: Installed, first: str) -> None:
    """Its children's lines, its own with their values, how far it is, and then its name."""
    with installed.waiting_hook() as go_on:
        run = installed.start(EDGE)
        page.goto(f"{installed.urls['ui']}/runs/flow-run/{run}")
        expect(page.get_by_text("building channel=tiny/1/edge devices=board_amd64,box_amd64")).to_be_visible()
        expect(page.get_by_text("I: installing remaining packages inside the chroot...").first).to_be_visible()
        picture(page, installed, "live-log")
        assert installed.state(run)["type"] == "RUNNING", "the lines are shown while the run goes on"
        progress = next(found for found in installed.artifacts(run) if found["type"] == "progress")
        assert 0 < progress["data"] < 100
        page.goto(f"{installed.urls['ui']}/artifacts/artifact/{progress['id']}")
        expect(page.get_by_text("Building the rootfs for amd64")).to_be_visible()
        picture(page, installed, "progress")
        go_on()

    name = installed.completed(run)["name"]
    assert name.startswith("tiny/1/edge board_amd64 box_amd64 2")
    page.goto(f"{installed.urls['ui']}/runs")
    expect(page.get_by_text(name)).to_be_visible()
    page.goto(f"{installed.urls['ui']}/runs/flow-run/{run}")
    page.get_by_text("Task Runs", exact=True).click()
    expect(page.get_by_text("Building the rootfs for amd64").first).to_be_visible()
    picture(page, installed, "tasks")


def artifact(page: Page, installed: Installed, run: str, key: str) -> None:
    found = next(found for found in installed.artifacts(run) if found["key"] == key)
    page.goto(f"{installed.urls['ui']}/artifacts/artifact/{found['id']}")
    expect(page.get_by_text(key, exact=True).first).to_be_visible()
    page.wait_for_load_state("networkidle")
    picture(page, installed, key)


def test_a_run_leaves_what_changed_and_where_it_is(page: Page, installed: Installed, first: str) -> None:
    installed.product.move_on()
    run = installed.start(EDGE)
    build_id = installed.completed(run)["name"].split()[-1]
    artifact(page, installed, run, "build-tiny-1-edge")
    expect(page.get_by_role("heading", name="tiny/1/edge")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="editor")).to_be_visible()
    expect(page.get_by_role("cell", name="Building the rootfs for amd64")).to_be_visible()
    artifact(page, installed, run, "versions-tiny-1-edge")
    row = page.get_by_role("row").filter(has_text="box_amd64")
    expect(row).to_contain_text(build_id)
    expect(row).to_contain_text("MB")
    artifact(page, installed, run, "link-tiny-1-edge-build")
    link = page.get_by_role("link", name=f"build {build_id}")
    expect(link).to_have_attribute("href", f"https://images.example.com/cdimage/tiny/1/daily-preinstalled/{build_id}/")
    artifact(page, installed, run, "link-tiny-1-edge-box-amd64")
    expect(page.get_by_role("link", name="image of box_amd64")).to_be_visible()


def console(page: Page, installed: Installed, run: str) -> None:
    artifact(page, installed, run, "console-tiny-1-gated-board-amd64-bios")
    shown = page.locator("img[src^='data:image/png']")
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.naturalWidth") >= _CONSOLE_WIDTH
    picture(page, installed, "console")


def test_a_verdict_has_the_last_lines_and_the_picture_of_the_console(page: Page, installed: Installed) -> None:
    run = installed.start(GATED)
    installed.completed(run)
    artifact(page, installed, run, "build-tiny-1-gated")
    expect(page.get_by_role("heading", name=re.compile(r"BIOS: booted in \d+ s"))).to_be_visible()
    expect(page.get_by_text("login:").first).to_be_visible()
    console(page, installed, run)


def test_so_has_one_of_an_image_that_does_not_boot(page: Page, installed: Installed) -> None:
    with boots_not(installed):
        run = installed.start(GATED)
        assert installed.finished(run)["state"]["type"] == "FAILED"
    artifact(page, installed, run, "boot-tiny-1-gated")
    expect(page.get_by_text("does not boot under bios").first).to_be_visible()
    expect(page.get_by_text("could not start the kernel").first).to_be_visible()
    console(page, installed, run)
