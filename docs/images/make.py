"""Pictures of a report.html for the documentation, by a Chromium that is installed.

Examples:
    tools/venv/bin/python docs/images/make.py egs2/asterisk/mtkd1/exp/report.html
    tools/venv/bin/python docs/images/make.py \\
        egs2/speechocean762/mtkd1/exp/report.html --only ladder
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = "--no-sandbox --disable-gpu --disable-background-networking".split()
SHOTS = {  # name -> width, height and colour scheme
    "desktop": (1200, 1900, "light"),
    "phone": (360, 780, "light"),
    "dark": (1200, 1500, "dark"),
}
COLORS = 255  # of a picture: small files


def main():
    """Write report_<name>.png, or the first chart as ladder.png, beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="a report.html")
    parser.add_argument(
        "--only", nargs="+", choices=[*SHOTS, "ladder"], default=list(SHOTS)
    )
    args = parser.parse_args()
    page_path = args.page.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS
        )
        for name in args.only:
            width, height, scheme = SHOTS.get(name, SHOTS["desktop"])
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(page_path.as_uri())
            if name == "ladder":
                save(page.locator("figure").first.screenshot(), "ladder.png")
            else:
                save(page.screenshot(), f"report_{name}.png")
        browser.close()


def save(png: bytes, name: str) -> None:
    """A small file beside this one."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    out = Path(__file__).with_name(name)
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
