"""The page of an explanation is the report's own section of tokens, and escapes what others wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.report.load import load_report_data
from pipeline.report.page import render
from pipeline.report.pages import render_explanation, write_explanation
from pipeline.report.words import signed
from shaping.errors import ShapetuneError
from tests.support.explanations import written
from tests.support.hostile import ALL, OWNED, PAYLOADS, Page
from tests.support.reports.synthetic_study import SyntheticStudy
from tests.support.servers.browser_probe import open_page

WORDS = [" alpha", "beta\n", " gamma"]
ROWS = {"winner of x": [0.5, -0.25, 1.0], "sparse": [0.0, 0.0, 1.25]}


def skeleton(text: str) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in Page(text).tags]


def test_rows_show_every_token_its_number_the_sum_and_what_moved() -> None:
    page = Page(render_explanation(written(WORDS, ROWS)))
    text = " ".join(" ".join(page.words).split())
    for words in ("winner of x", "sparse", "scored by judge", "1 response", "sums kept, causal", "Score +1.2500"):
        assert words in text
    assert text.count("sum +1.2500 = score") == 2 and text.count("moved 0.5000") == 1
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "span" and "title" in attributes]
    assert titles == [signed(reward, 4) for row in ROWS.values() for reward in row]
    assert text.count("beta↵") == 2
    # One scale for both rows: the largest reward of all is the deepest.
    depths = re.findall(r"--depth: (\d\.\d{3})", render_explanation(written(WORDS, ROWS)))
    expected = [(abs(reward) / 1.25) ** 0.5 for row in ROWS.values() for reward in row]
    assert [float(depth) for depth in depths] == pytest.approx(expected, abs=1e-3)


def test_a_response_looks_as_it_does_in_the_report(study: SyntheticStudy) -> None:
    explanation = written(WORDS, {"prefix": [0.5, -0.25, 1.0]})
    (sample,) = explanation.samples
    rows = {row.method: list(row.rewards) for row in sample.rows}
    kept = {"prompt": sample.prompt, "tokens": list(sample.tokens), "score": sample.score, "rewards": rows}
    study.write(study.folder.tokens_file, [kept])
    article = re.compile(r"<article.*?</article>", re.DOTALL)
    ours, theirs = render_explanation(explanation), render(load_report_data(study.folder))
    assert article.findall(ours) == article.findall(theirs) and len(article.findall(ours)) == 1
    for part in (r"<style>.*?</style>", r"<meta http-equiv=.*?>"):
        assert re.findall(part, ours, re.DOTALL) == re.findall(part, theirs, re.DOTALL)
    assert ours.rpartition("<script>")[2] == theirs.rpartition("<script>")[2]


@pytest.mark.parametrize("payload", [ALL, *PAYLOADS])
def test_hostile_texts_add_no_element_and_no_attribute(payload: str) -> None:
    def page(text: str) -> str:
        return render_explanation(written([text, f"a{text}"], {text: [1.0, -1.0], "b": [0.0, 0.0]}, text, text))

    assert skeleton(page(payload)) == skeleton(page("harmless"))


@pytest.mark.slow
def test_no_hostile_text_runs_in_the_browser_and_pointing_reads_a_number(tmp_path: Path) -> None:
    explanation = written([ALL, "b"], {ALL: [1.0, -1.0], "b": [0.0, 0.0]}, ALL, ALL)
    found = open_page(render_explanation(explanation), tmp_path)
    assert found["done"] == "yes" and OWNED not in found and int(found["reading"]) > 0
    assert (found["images"], found["handlers"]) == ("0", "0")


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "page.html"
    assert write_explanation(written(WORDS, ROWS), target) == target
    assert target.read_text().rstrip().endswith("</html>")
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    with pytest.raises(ShapetuneError, match=r"page .* cannot be written"):
        write_explanation(written(WORDS, ROWS), target / "page.html")
