"""A real browser, Debian's Chromium, that opens pages as readers have them: light and dark, narrow and wide."""

import os
import shutil
from contextlib import contextmanager
from typing import NamedTuple

import pytest

WIDTHS, SCHEMES = (375, 1200), ("light", "dark")


class Seen(NamedTuple):
    """What was found wrong with a page as opened in one way."""

    width: int
    scheme: str
    faults: list[str]


@contextmanager
def chromium():
    """Open the browser; without one the test is skipped, or fails where ``CI`` is set."""
    try:
        from axe_playwright_python.sync_playwright import Axe  # noqa: F401
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        absent(f"the package {error.name!r} is missing: run 'make setup'")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        absent("there is no Chromium: install Debian's package chromium")
    options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


def absent(why):
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def look(browser, path, pictures=None, schemes=SCHEMES, widths=WIDTHS):
    """Open a page in every way; return what is wrong: errors, requests, width, and what axe-core finds on a phone.

    ``pictures``: the folder of screenshots, if they are wanted.
    """
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for scheme in schemes:
        for width in widths:
            options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
            with opened(browser, path, options) as (page, faults):
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    faults.append(f"{wide} pixels wide, of {width}")
                if pictures is not None:
                    page.screenshot(path=pictures / f"{path.stem}.{scheme}.{width}.png")
            # its policy lets no script in, so axe-core looks at it without
            if width == widths[0]:
                with opened(browser, path, {**options, "bypass_csp": True}) as (page, _):
                    for details in page.query_selector_all("details"):
                        details.evaluate("one => one.open = true")
                    for one in Axe().run(page).response["violations"]:
                        faults.append(f"{one['id']}: {one['nodes'][0]['html'][:120]}")
            found.append(Seen(width, scheme, faults))
    return found


@contextmanager
def opened(browser, path, options):
    """Open a page, and note what it says on the console and asks for."""
    context, faults = browser.new_context(**options), []
    page, address = context.new_page(), path.resolve().as_uri()
    page.on("console", lambda said: faults.append(f"console: {said.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request", lambda one: None if one.url.startswith(("data:", address)) else faults.append(f"asks: {one.url}")
    )
    page.goto(address)
    try:
        yield page, faults
    finally:
        context.close()
