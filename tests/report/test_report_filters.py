"""A real browser filters and sorts the trials, and lays the page out for a phone."""

import json
import re
import subprocess

import pytest

from pipeline.report.load import load_report_data
from pipeline.report.page import render
from tests.support.servers.browser import chromium
from tests.support.waiting import LIMIT_SECONDS

# Starts a browser.
pytestmark = pytest.mark.slow

# Does one thing after another and keeps what is then seen.
PROBE = """<script>
addEventListener("load", async () => {
  const said = [];
  const filter = document.querySelector("#trials-filter");
  const type = (text) => {
    filter.querySelector("input").value = text;
    filter.querySelector("input").dispatchEvent(new Event("input", { bubbles: true }));
  };
  const press = (value) => filter.querySelector(`button[data-value="${value}"]`).click();
  const shown = () => [...document.querySelectorAll("[data-filter]")].map((table) => [...table.tBodies[0].rows]
    .filter((row) => row.checkVisibility()).map((row) => Number(row.cells[0].textContent)));
  const see = () => said.push([filter.querySelector("output").textContent, ...shown()]);
  const steps = {
    "at first": () => {},
    "two words": () => type("1.00 PREFIX"),
    "a reason": () => type("worker_died"),
    "none": () => type("no such thing"),
    "model": () => { type(""); press("model"); },
    "model or sobol": () => press("sobol"),
    "of these, failed": () => press("failed"),
    "failed or completed, by J": () => {
      press("completed");
      [...document.querySelectorAll("#trials .sortable th button")].find((b) => b.textContent === "J").click();
    },
    "all again": () => ["model", "sobol", "failed", "completed"].forEach(press),
  };
  for (const step of Object.values(steps)) { step(); see(); }
  const frame = [...document.querySelectorAll("[data-figure]")];
  for (let tries = 0; tries < 100 && !frame.every((place) => place.data); tries++) {
    await new Promise((done) => setTimeout(done, 50));
  }
  await new Promise((done) => setTimeout(done, 300));
  const labels = [...document.querySelectorAll("#forest-figure .annotation")];
  const boxes = labels.map((each) => each.getBoundingClientRect());
  const overlap = boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right && b.left < a.right &&
    a.top < b.bottom && b.top < a.bottom));
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const found = { said: Object.fromEntries(Object.keys(steps).map((key, i) => [key, said[i]])), labels: boxes.length,
    overlap, wide, width: innerWidth };
  parent.document.documentElement.dataset.found = JSON.stringify(found);
});
</script>"""


def look(study, folder, width):
    """Return what a browser of this width saw; a frame is as narrow as a phone, which no window of it may be."""
    page = render(load_report_data(study.folder)).replace("</body>", PROBE + "</body>")
    (folder / "page.html").write_text(page, encoding="utf-8")
    outer = folder / "outer.html"
    outer.write_text(f'<html><body><iframe src="page.html" width="{width}" height="900"></iframe></body></html>')
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=60000",
    ]
    command = [chromium(), *options, "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    (kept,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    return json.loads(kept.replace("&quot;", '"'))


@pytest.fixture
def studied(study):
    """A whole study with a retried trial and with rivals of long names."""
    study.held_out_every = 10
    study.search()
    study.confirm()
    study.failed_attempt(study.folder.trial_folder(7))
    return study


def test_trials_are_filtered_by_words_and_buttons_and_stay_sorted(studied, tmp_path):
    said = look(studied, tmp_path, 1100)["said"]
    ranked = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11]
    data = load_report_data(studied.folder)
    by_j = sorted(range(4, 10), key=lambda index: -data.trials[index].result.metrics["objective"].mean)
    assert said == {
        "at first": ["12 of 12", ranked, [10]],
        "two words": ["1 of 12", [1], []],
        "a reason": ["1 of 12", [7], []],
        "none": ["0 of 12", [], []],
        "model": ["5 of 12", [9, 8, 7, 11], [10]],
        "model or sobol": ["8 of 12", [9, 8, 7, 6, 5, 4, 11], [10]],
        "of these, failed": ["1 of 12", [], [10]],
        "failed or completed, by J": ["7 of 12", by_j, [10]],
        "all again": ["12 of 12", said["all again"][1], [10]],
    }
    assert sorted(said["all again"][1]) == sorted(ranked)


@pytest.mark.parametrize("width", [390, 1100])
def test_no_label_of_the_forest_touches_another_and_the_page_is_no_wider_than_the_screen(studied, tmp_path, width):
    found = look(studied, tmp_path, width)
    assert found["width"] == width
    assert found["labels"] == 6 and not found["overlap"]
    assert not found["wide"]
