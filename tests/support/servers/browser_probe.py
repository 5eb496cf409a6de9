"""A page that points at everything and clicks everything by itself, and says what became of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.servers.browser import chromium
from tests.support.waiting import LIMIT_SECONDS

# Points at everything, clicks everything, and says in the page what became of it.
PROBE = """<script>
(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  window.alert = window.confirm = window.prompt = () => { document.documentElement.dataset.owned = "dialog"; };
  for (let tries = 0; tries < 80; tries++) {
    await wait(50);
    if ([...document.querySelectorAll("[data-figure]")].every((place) => place.data)) break;
  }
  let hovered = 0;
  for (const place of document.querySelectorAll("[data-figure]")) {
    for (let curve = 0; curve < place.data.length; curve++) {
      try { Plotly.Fx.hover(place, [{ curveNumber: curve, pointNumber: 0 }]); hovered++; } catch (error) {}
      await wait(5);
    }
  }
  for (const button of document.querySelectorAll("button")) button.click();
  for (const token of document.querySelectorAll(".token")) {
    token.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  }
  await wait(200);
  const figures = [...document.querySelectorAll(".figure")];
  const found = document.documentElement.dataset;
  found.figures = figures.filter((place) => place.querySelector("svg.main-svg")).length;
  found.hovered = hovered;
  found.links = figures.flatMap((place) => [...place.querySelectorAll("a")]).length;
  found.images = document.querySelectorAll("img, iframe, object, embed").length;
  found.handlers = [...document.querySelectorAll("*")].filter(
    (each) => each.getAttributeNames().some((name) => name.startsWith("on"))).length;
  found.reading = document.querySelector(".reading").textContent.length;
  found.done = "yes";
})();
</script>"""


def open_page(text: str, folder: Path) -> dict[str, str]:
    """Return what the page said of itself after everything in it was pointed at and clicked."""
    page = folder / "page.html"
    page.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8", errors="surrogatepass")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom"]
    done = subprocess.run(
        [chromium(), *options, page.as_uri()], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    opened = re.search(r"<html[^>]*>", done.stdout)
    assert opened, done.stderr[-2000:]
    return dict(re.findall(r'data-(\w+)="([^"]*)"', opened[0]))
