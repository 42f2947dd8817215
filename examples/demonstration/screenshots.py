"""Take the pictures of the documents: ``screenshots.py PAGE.html... FOLDER``, each light and dark, narrow and wide.

It needs Debian's package chromium and the extra ``dev``. The pages are those that ``make demo`` leaves, and that of
``dynvid bench``; a picture is called ``NAME.light.375.jpg`` and so on.
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS, SCHEMES = (375, 1100), ("light", "dark")
HEIGHT = 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        for path in arguments.pages:
            for scheme in SCHEMES:
                for width in WIDTHS:
                    shown = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": HEIGHT})
                    shown.goto(path.resolve().as_uri())
                    to = arguments.folder / f"{path.stem}.{scheme}.{width}.jpg"
                    shown.screenshot(path=to, type="jpeg", quality=45)
                    shown.close()
                    print(to)
        browser.close()


if __name__ == "__main__":
    main()
