"""Nothing that a model, a data set, a database or an error wrote becomes markup in the report."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.report.figures import base as report_figures
from pipeline.report.load import load_report_data
from pipeline.report.page import render, write_report
from shaping.errors import ShapetuneError
from tests.support.hostile import ALL, OWNED, PAYLOADS, Page, hostile_study
from tests.support.reports.synthetic_study import SyntheticStudy

pytestmark = pytest.mark.slow

# Tags that Plotly's own text renderer knows; a text must reach it with none of them.
PLOTLY_TAGS = re.compile(r"<\s*/?\s*(a|b|i|br|em|sub|sup|span|strong|extra|img|svg|script)\b", re.IGNORECASE)
OURS = ("<b>", "</b>", "<br>", "<extra>", "</extra>")


@pytest.fixture(autouse=True)
def _small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse pages without the five megabytes that are the same in each."""
    monkeypatch.setattr(report_figures, "get_plotlyjs", lambda: "/* plotly.js */")


def page_of(study: SyntheticStudy) -> str:
    return render(load_report_data(study.folder))


def skeleton(text: str) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in Page(text).tags]


def test_hostile_texts_leave_the_elements_and_attributes_as_they_are(tmp_path: Path) -> None:
    harmless = page_of(hostile_study(tmp_path / "harmless", "harmless"))
    hostile = page_of(hostile_study(tmp_path / "hostile"))
    assert skeleton(hostile) == skeleton(harmless)
    # It was there to be seen: as a text, in every section.
    assert " ".join(Page(hostile).words).count("<img src=x onerror=") >= 20


@pytest.mark.parametrize("payload", PAYLOADS)
def test_each_payload_alone_adds_nothing(payload: str, tmp_path: Path) -> None:
    tags = Page(page_of(hostile_study(tmp_path / "study", payload))).tags
    assert all(not name.startswith("on") for _, attributes in tags for name in attributes)
    assert {tag for tag, _ in tags} & {"img", "svg", "iframe", "object", "embed", "base", "form"} == set()
    links = [attributes.get("href") or "" for tag, attributes in tags if tag in ("a", "link")]
    assert all(link.startswith(("#", "data:,")) for link in links)
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert {tuple(sorted(attributes)) for attributes in scripts} <= {(), ("id",), ("id", "type")}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["<", ">", '"', "'", "&", "/", "script", "-->", "]]>", "{{", "x", " ", "\\"]), max_size=9)
)
def test_no_mix_of_signs_adds_an_element(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    text = "".join(parts) or "x"
    folder = tmp_path_factory.mktemp("mix")
    assert skeleton(page_of(hostile_study(folder / "study", text))) == _harmless_skeleton(folder.parent)


@lru_cache(maxsize=1)
def _harmless_skeleton(parent: Path) -> list[tuple[str, list[str]]]:
    return skeleton(page_of(hostile_study(parent / "harmless", "x")))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for below in value.values() for text in strings(below)]
    if isinstance(value, list):
        return [text for below in value for text in strings(below)]
    return [value] if isinstance(value, str) else []


def test_figures_hold_no_markup_but_ours_and_cannot_close_their_script(tmp_path: Path) -> None:
    text = page_of(hostile_study(tmp_path / "study"))
    page = Page(text)
    figures = [
        script
        for script, attributes in zip(page.scripts, [a for t, a in page.tags if t == "script"], strict=True)
        if attributes.get("type") == "application/json"
    ]
    assert len(figures) == 3
    shown = 0
    for figure in figures:
        assert "<" not in figure and "&" not in figure
        content = json.loads(figure)
        annotations = content["layout"].get("annotations", [])
        drawn = [trace.get(key) for trace in content["data"] for key in ("name", "hovertemplate", "hovertext", "text")]
        for words in strings([*drawn, *(each["text"] for each in annotations)]):
            for tag in OURS:
                words = words.replace(tag, "")
            assert not PLOTLY_TAGS.search(words), words
            shown += "&lt;script&gt;" in words
    assert shown >= 5


def test_numbers_that_are_texts_are_refused_not_shown(tmp_path: Path) -> None:
    style = "1; background: url(//example.org)"
    study = hostile_study(tmp_path / "study", "harmless")
    places: list[tuple[Path, list[Any]]] = [
        (study.folder.winner_file, ["shape", "weights", "prefix"]),
        (study.folder.winner_file, ["shape", "gae_lambda"]),
        (study.folder.tokens_file, [0, "score"]),
        (study.folder.tokens_file, [0, "rewards", "winner", 0]),
        (study.folder.sensitivity_file, ["harmless", "total"]),
        (study.folder.ranking_file, [0, "mean"]),
        (study.folder.verdict_file, ["differences", 0, "mean"]),
        (study.folder.verdict_file, ["differences", 0, "bootstrap_low"]),
        (study.folder.verdict_file, ["steps_to_level", "harmless"]),
        (study.folder.trial_folder(12) / "stopped.json", ["steps"]),
        (study.folder.trial_folder(0) / "result.json", ["runs", 0, "evaluation", "objective"]),
        (study.folder.trial_folder(0) / "result.json", ["runs", 0, "certificate", "largest_error"]),
        (study.folder.trial_folder(0) / "result.json", ["runs", 0, "curve", 0, "reward"]),
    ]
    for file, place in places:
        before = file.read_text()
        content = json.loads(before)
        *parents, last = place
        inner = content
        for key in parents:
            inner = inner[key]
        inner[last] = style
        study.write(file, content)
        with pytest.raises(ShapetuneError):
            page_of(study)
        file.write_text(before)
    assert page_of(study)


def test_the_page_forbids_the_browser_to_load_anything(tmp_path: Path) -> None:
    text = page_of(hostile_study(tmp_path / "study"))
    policy = next(a["content"] for tag, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    # Before anything that a study wrote.
    assert text.index("Content-Security-Policy") < text.index("<title>")


def test_a_damaged_file_is_not_poured_into_the_message(tmp_path: Path) -> None:
    study = hostile_study(tmp_path / "study", "harmless")
    study.folder.winner_file.write_bytes(b'{"name": "\xff' + b"A" * 5000)
    with pytest.raises(ShapetuneError, match=r"winner\.json is damaged") as caught:
        page_of(study)
    assert len(str(caught.value)) < 500


def test_a_deeply_nested_file_is_refused_by_name(tmp_path: Path) -> None:
    study = hostile_study(tmp_path / "study", "harmless")
    study.folder.tokens_file.write_text("[" * 100_000)
    with pytest.raises(ShapetuneError, match=r"tokens\.json is damaged"):
        page_of(study)


def test_the_payloads_would_be_found_if_one_came_through(tmp_path: Path) -> None:
    harmless = page_of(hostile_study(tmp_path / "study", "harmless"))
    for payload in PAYLOADS[:4]:
        assert skeleton(harmless.replace("harmless", payload)) != skeleton(harmless)
    assert OWNED in ALL
    written = write_report(load_report_data(hostile_study(tmp_path / "other").folder), tmp_path / "report.html")
    assert written.read_text(encoding="utf-8").count("</script>") == 5
