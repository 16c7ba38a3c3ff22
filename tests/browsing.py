"""Debian's Chromium for tests: started once a module, without a sandbox and without calling anybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from tests.service_tools import program

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PHONE, DESKTOP = (360, 780), (1280, 900)
WAIT_MS = 20_000
PRESSES = 8
SHOTS = os.environ.get("DASHBOARD_SHOTS")  # a folder: pages are kept there as pictures, to be looked at


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser; the test is skipped, with a reason, where there is none."""
    path = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(browser: Browser, *, size: tuple[int, int] = DESKTOP, dark: bool = False, script: bool = True) -> Iterator[Page]:
    """A page of a profile of its own; a fault of our script, or a file that the policy forbids, fails the test."""
    context: BrowserContext = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
        has_touch=size == PHONE,
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    try:
        yield page
        assert faults == []
    finally:
        context.close()


def sign_in(page: Page, url: str, secret: str) -> None:
    """As a person does it."""
    page.goto(f"{url}/login")
    page.get_by_label("Token", exact=True).fill(secret)
    page.locator("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}/")


def too_wide(page: Page) -> str:
    """What reaches over the right edge; empty when nothing does."""
    found = page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? '' : [...document.querySelectorAll('body *')]
             .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, nav'))
             .slice(0, 3).map(e => e.outerHTML.slice(0, 200)).join(' | ') || 'something'"""
    )
    assert isinstance(found, str)
    return found


def press(page: Page, button: Locator) -> None:
    """Press as a person does: again, where the page had just moved under the finger; returns on the page that tells what came of it."""
    for _ in range(PRESSES):
        button.click()
        page.wait_for_function("document.getElementById('told') || /under your finger/.test(document.getElementById('news').textContent)")
        if page.locator("#told").count():
            return
        page.locator("#news").evaluate("news => news.replaceChildren()")
    raise AssertionError("the page never stood still")


def shoot(page: Page, name: str) -> None:
    """Keep what is in sight (`-first`) and the whole page as pictures, where somebody wants to look at them."""
    size = page.viewport_size
    if not SHOTS or size is None:
        return
    folder = Path(SHOTS)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / f"{name}-first.png"))
    page.set_viewport_size({"width": size["width"], "height": page.evaluate("document.documentElement.scrollHeight")})
    page.screenshot(path=str(folder / f"{name}.png"))
    page.set_viewport_size(size)
