"""The report's landscape: contour bands against brute force, figures against what the model said, and the page."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from pipeline.analysis.landscape import DIVISIONS, Believed, Face, Landscape, Plane, Proposed, Slice
from pipeline.report.figures.landscape import prediction_figure, prediction_words, scale, slice_figures
from pipeline.report.figures.triangle import bands, levels, triangle_figures
from pipeline.report.load import load_report_data
from pipeline.report.page import render
from pipeline.search.ax_analyses import AxAnalysis
from search_spaces.base import Candidate
from shaping.shape import Shape
from tests.support.reports.page import HOSTILE, Page

pytestmark = pytest.mark.slow


def grid(divisions: int) -> list[tuple[float, float, float]]:
    return [
        (i / divisions, j / divisions, (divisions - i - j) / divisions)
        for i in range(divisions + 1)
        for j in range(divisions + 1 - i)
    ]


def area(polygon: tuple[tuple[float, float, float], ...]) -> float:
    """In parts of the whole triangle, by the shoelace formula in two of the three shares."""
    pairs = zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    return abs(sum(a * y - x * b for (a, b, _), (x, y, _) in pairs))


def test_bands_of_a_plane_have_the_areas_that_geometry_gives() -> None:
    """Where the value is the first share, the part with at least ``t`` of it is a triangle of area (1 - t)^2."""
    at = [0.0, 0.1, 0.35, 0.8, 1.0]
    found = bands(7, [a for a, _, _ in grid(7)], at)
    areas = [sum(map(area, band.polygons)) for band in found]
    assert areas == pytest.approx([(1 - low) ** 2 - (1 - high) ** 2 for low, high in pairwise(at)], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_every_band_holds_the_points_whose_interpolated_value_is_its_own(seed: int) -> None:
    """Random points, interpolated by hand from the corners of the small triangle that they lie in."""
    chance, divisions = random.Random(seed), 6
    values = {point: chance.gauss(0, 1) for point in grid(divisions)}
    at = levels(list(values.values()))
    found = bands(divisions, [values[point] for point in grid(divisions)], at)
    assert sum(area(polygon) for band in found for polygon in band.polygons) == pytest.approx(1.0)
    for _ in range(200):
        a, b = sorted((chance.random(), chance.random()))
        point = (a, b - a, 1 - b)
        value = interpolated(point, values, divisions)
        holding = [band for band in found if any(contains(polygon, point) for polygon in band.polygons)]
        assert any(band.low - 1e-9 <= value <= band.high + 1e-9 for band in holding)


def interpolated(point: tuple[float, float, float], values: dict[Any, float], n: int) -> float:
    x, y = point[0] * n, point[1] * n
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j

    def at(i: int, j: int) -> float:
        return values[(i / n, j / n, (n - i - j) / n)]

    if u + v <= 1:
        return at(i, j) * (1 - u - v) + at(i + 1, j) * u + at(i, j + 1) * v
    return at(i + 1, j + 1) * (u + v - 1) + at(i + 1, j) * (1 - v) + at(i, j + 1) * (1 - u)


def contains(polygon: tuple[tuple[float, float, float], ...], point: tuple[float, float, float]) -> bool:
    """Whether a convex polygon holds a point: it is never on both sides of its edges."""
    pairs = zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    sides = [(c - a) * (point[1] - b) - (d - b) * (point[0] - a) for (a, b, _), (c, d, _) in pairs]
    return all(side >= -1e-9 for side in sides) or all(side <= 1e-9 for side in sides)


@pytest.mark.parametrize("values", [[0.313, 0.957], [-12.0, 55.0], [1e-4, 3e-4], [2.0, 2.0], [0.0, 0.0], [0.0, 1.0]])
def test_levels_are_round_rise_evenly_and_hold_all_values(values: list[float]) -> None:
    found = levels(values)
    steps = [high - low for low, high in pairwise(found)]
    assert 2 <= len(found) <= 13 and steps == pytest.approx([steps[0]] * len(steps))
    assert found[0] <= min(values) + 1e-12 and found[-1] >= max(values) - 1e-12
    digit = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(digit - round_step) for round_step in (1, 2, 5, 10)) < 1e-6


def made(name: str = "prefix") -> Landscape:
    """A belief in which J is the first method's share, and as uncertain as the second's is small."""
    shares = tuple(grid(DIVISIONS))
    reference = Candidate(Shape(weights={"prefix": 1.0}, gae_lambda=0.8))
    face = Face((name, "attention", "sparse"), shares, Believed(tuple(a for a, _, _ in shares), (0.25,) * len(shares)))
    half = Candidate(Shape(weights={"prefix": 0.25, "attention": 0.25, "shapley": 0.5}))
    tried = {0: Candidate(Shape()), 4: reference, 5: half, 6: Candidate(Shape(weights={"shapley": 1.0}))}
    positions = (0.0, 0.5, 1.0)
    line = Slice("lambda", positions, Believed((0.5, 0.75, 1.0), (0.125, 0.25, 0.5)), 0.8, dict.fromkeys(tried, 0.5))
    units = Slice("unit", ("token", "span"), Believed((0.5, 1.0), (0.1, 0.1)), "span", dict.fromkeys(tried, "span"))
    plane = Plane("share of prefix", "lambda", (0.0, 1.0), (0.6, 1.0), Believed((0.0, 1.0, 2.0, 3.0), (0.5,) * 4))
    return Landscape(
        reference=reference,
        reference_trial=4,
        faces=(face,),
        planes=(plane,),
        slices=(line, units),
        left_out={0: (0.25, 0.1), 4: (0.75, 0.1), 5: (0.375, 0.05)},
        measured={0: (0.0, 0.03), 4: (1.0, 0.03), 5: (0.375, None)},
        proposals=(Proposed(Candidate(Shape(weights={"prefix": 0.9, "attention": 0.1})), 0.9375, 0.0625),),
        tried=tried,
    )


def test_a_triangle_shows_trials_where_their_shares_put_them_and_only_those_that_belong() -> None:
    found = made()
    mean, deviation = (json.loads(figure) for figure in triangle_figures(found, found.faces[0], "J"))
    tried, following = mean["data"][-3:-1]
    assert list(zip(tried["x"], tried["y"], strict=True)) == [(1.0, 0.0), (0.5, 0.866)]
    assert tried["marker"]["symbol"] == ["circle", "star"]
    assert tried["marker"]["color"] == [0.0, 1.0]
    assert "trial 4: 1.00 prefix, lambda 0.80<br>1.000 ± 0.030" in tried["text"]
    assert (following["x"], following["y"]) == ([0.45], [0.7794]) and "0.938 ± 0.062" in following["text"][0]
    assert len(deviation["data"]) == len([t for t in deviation["data"] if t["hoverinfo"] == "skip"]) + 1
    corners = {note["text"]: (note["x"], note["y"]) for note in mean["layout"]["annotations"]}
    assert corners == {"<b>prefix</b>": (0.5, 0.866), "<b>attention</b>": (-0.08, 0.0), "<b>sparse</b>": (1.08, 0.0)}


def test_a_triangles_readings_say_both_numbers_at_every_point() -> None:
    """Where trials stand, the uncertainty's triangle says them and the mean's leaves them to the trials."""
    found = made()
    mean, deviation = (json.loads(figure) for figure in triangle_figures(found, found.faces[0], "J"))
    readings, others = (
        next(trace for trace in each["data"] if trace.get("text") and len(trace["text"]) > 100)
        for each in (deviation, mean)
    )
    texts = [f"{a:.2f} prefix, {b:.2f} attention, {c:.2f} sparse<br>{a:.3f} ± 0.250" for a, b, c in grid(DIVISIONS)]
    assert readings["text"] == texts
    assert set(texts) - set(others["text"]) == {texts[0], texts[-1]}


def test_a_slice_shows_the_95_percent_interval_and_its_trials_with_their_errors() -> None:
    (name, line), (_, units) = slice_figures(made(), "J")
    outline, curve, points = json.loads(line)["data"]
    assert name == "lambda" and curve["y"] == [0.5, 0.75, 1.0]
    assert outline["y"][:3] == pytest.approx([0.5 + 1.96 * 0.125, 0.75 + 1.96 * 0.25, 1 + 1.96 * 0.5])
    assert outline["y"][3:] == pytest.approx([1 - 1.96 * 0.5, 0.75 - 1.96 * 0.25, 0.5 - 1.96 * 0.125])
    assert points["y"] == [0.0, 1.0, 0.375] and points["error_y"]["array"] == [0.03, 0.03, 0.0]
    choices, _ = json.loads(units)["data"]
    assert choices["x"] == ["token", "span"] and choices["mode"] == "markers"
    spans = [json.loads(figure)["layout"]["yaxis"]["range"] for figure in (line, units)]
    assert spans[0] == spans[1] and spans[0][0] < 0 and spans[0][1] > 1 + 1.96 * 0.5


def test_the_prediction_is_measured_against_left_out_and_its_words_count() -> None:
    found = made()
    figure = prediction_figure(found, "J")
    assert figure is not None
    _, points = json.loads(figure)["data"]
    assert points["x"] == [0.0, 1.0, 0.375] and points["y"] == [0.25, 0.75, 0.375]
    # By hand: squares 1/16 + 1/16 + 0 about a total of 0.5104.
    assert prediction_words(found) == "R² 0.76; 1 of 3 measured values lie within their 95 % intervals"
    assert prediction_figure(replace(found, left_out={}), "J") is None


def test_the_page_shows_belief_next_trials_and_axs_cards(whole_study: Any) -> None:
    data = load_report_data(whole_study.folder)
    cards = (
        AxAnalysis("Results", "A table", "What it says", columns=("one",), rows=(("two",),)),
        AxAnalysis("Results", "Broken", "", failure="ValueError: no"),
    )
    page = Page(render(replace(data, landscape=made(), is_modelled=True, analyses=cards)))
    assert {"landscape", "ax"} <= {attributes["id"] for attributes in page.all("section")}
    for shown in (
        "Mixes of prefix, attention and sparse",
        "1.00 prefix, lambda 0.80",
        "0.90 prefix + 0.10 attention",
        "0.938 ± 0.062",
        "R² 0.76",
        "Ax could not compute it: ValueError: no",
        "2 analyses",
    ):
        expected = shown.replace("0.90 prefix + 0.10 attention", "0.10 attention + 0.90 prefix")
        assert expected in page.text
    assert "What the model believes" not in Page(render(data)).text


def test_a_page_without_a_model_says_why(study: Any) -> None:
    page = Page(render(load_report_data(study.folder, modelled=True)))
    assert "Too few trials have ended for a model." in page.text


def test_a_whole_study_is_modelled_from_its_folder(whole_study: Any) -> None:
    data = load_report_data(whole_study.folder, modelled=True, with_ax=True)
    assert data.landscape is not None and len(data.landscape.measured) == 10
    assert len(data.analyses) > 8
    assert "What the model believes" in Page(render(data)).text


def test_nothing_hostile_in_belief_or_cards_becomes_markup(whole_study: Any) -> None:
    data = load_report_data(whole_study.folder)
    bad = f"</script>{HOSTILE}"
    cards = (AxAnalysis(bad, bad, bad, columns=(bad,), rows=((bad,),)), AxAnalysis(bad, bad, "", failure=bad))
    text = render(replace(data, landscape=made(bad), is_modelled=True, analyses=cards))
    assert HOSTILE not in text
    clean = render(replace(data, landscape=made(), is_modelled=True, analyses=cards))
    assert len(Page(text).scripts) == len(Page(clean).scripts)


@pytest.mark.parametrize(("objective", "label"), [("final", "J"), ("curve", "mean J of curve"), ("gain", "gain in J")])
def test_what_is_believed_has_the_name_of_what_was_searched(
    make_study: Callable[..., Any], objective: str, label: str
) -> None:
    study = make_study(search={"objective": objective})
    study.search()
    page = Page(render(replace(load_report_data(study.folder), landscape=made(), is_modelled=True)))
    assert f"{label} expected" in page.text


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.0, 0.5, 1.0], "linear"),
        ([2e-4, 2e-4 * 16**0.5, 3.2e-3], "log"),
        ([2e-4 * 16 ** (place / 20) for place in range(21)], "log"),
        ([1.0, 2.0, 3.0, 4.0], "linear"),
        # Whole numbers of a log scale, rounded: neither scale is theirs, and the plain one shows them as they are.
        ([1, 2, 3, 6, 10], "linear"),
        ([1.0, 2.0], "linear"),
        ([-1.0, 0.0, 1.0], "linear"),
    ],
)
def test_an_axis_has_the_scale_on_which_its_places_stand_evenly(places: list[float], expected: str) -> None:
    assert scale(places) == expected
