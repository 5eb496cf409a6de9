"""Turns a report's data into one HTML file that asks nothing of the network."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.explain.samples import TokenSample
from pipeline.report import preservation, words
from pipeline.report.data import ReportData
from pipeline.report.figures import base as figures
from pipeline.report.figures.curves import curve_results, learning_curves, metrics_drawn
from pipeline.report.figures.forest import forest
from pipeline.report.figures.trials import trial_values
from pipeline.report.run_record import cpu_ratio
from pipeline.report.sections import LandscapeSection, ax_groups
from pipeline.report.sensitivity import SHARE
from pipeline.runtime.files import write_text
from pipeline.study.verdict import PLACE
from pipeline.trials.arm import WINNER
from pipeline.trials.statistics import SMOOTHING_STEPS
from shaping.certificate import TOLERANCE
from shaping.errors import ShapetuneError
from shaping.method_names import SPARSE


def write_report(data: ReportData, path: Path) -> Path:
    """Write the report so that the file is either whole or as it was before, and return its path.

    Raises:
        ShapetuneError: The file cannot be written.
    """
    return write_page(render(data), path, "report")


def write_page(text: str, path: Path, what: str) -> Path:
    """Write a page so that the file is either whole or as it was before, and return its path.

    Raises:
        ShapetuneError: The file cannot be written; ``what`` names it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise ShapetuneError(f"{what} {path} cannot be written: {error.strerror}", "choose another file") from error
    return path


@dataclass(frozen=True)
class Live:
    """What a page that is served needs to stay up to date.

    Attributes:
        version: What the page was made from; it asks ``version`` beside itself for the newest one.
        home: The address of the list of studies, seen from the page; empty where there is none.
        now: What happens at this moment, in words.
    """

    version: str
    home: str
    now: str


def render(data: ReportData, live: Live | None = None) -> str:
    """Return the page. Everything is escaped, except what ``figures`` made safe.

    Args:
        data: What it shows.
        live: Of a page that is served; one from a file asks nothing of anybody.
    """
    curves = learning_curves(data)
    differences = forest(data.verdict) if data.verdict else None
    values = trial_values(data)
    model = LandscapeSection.of(data.landscape, data.config.search.objective) if data.is_modelled else None
    page = environment().get_template("report.html.j2")
    return page.render(
        data=data,
        live=live,
        curves=curves,
        forest=differences,
        trial_values=values,
        landscape=model,
        ax_groups=ax_groups(data.analyses),
        # Five megabytes that a page without figures has no use for.
        plotly=figures.plotly_script() if curves or differences or values or data.landscape or data.analyses else None,
        metrics=metrics_drawn(curve_results(data)),
        colours=figures.arm_colours(data),
        share_colours=_share_colours(data),
        smoothing_steps=SMOOTHING_STEPS,
        tolerance=TOLERANCE,
        words=words,
        kept=preservation.preservation(data),
        certificates=preservation,
        cost=cost_line(data),
        cpu_seconds=lambda record: record.cpu_seconds,
        credit_tokens=lambda record: record.credit_per_response,
        depths=token_depths,
        has_beliefs=any(trial.belief for trial in data.trials),
        has_shares=any(row.parameter.startswith(SHARE) for row in data.sensitivity),
        has_runners_up=any(each.arm.name.startswith(PLACE) for each in data.confirmed),
        method_words=_method_words(data),
    )


def token_depths(sample: TokenSample) -> list[list[float]]:
    """Return, row by row, how strongly each token is coloured: ``sqrt(|r| / max |r|)``, between 0 and 1.

    One scale for all rows of a response keeps them comparable. The root keeps spread rewards visible beside
    sparse, which has everything on one token.
    """
    largest = max((abs(r) for row in sample.rows for r in row.rewards if math.isfinite(r)), default=0.0) or 1.0
    return [[math.sqrt(abs(r) / largest) if math.isfinite(r) else 1.0 for r in row.rewards] for row in sample.rows]


def environment() -> Environment:
    """Return what templates of pages are rendered in: everything is escaped, and what is missing is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"shareable": shareable, "shareable_yaml": shareable_yaml}
    return made


def cost_line(data: ReportData) -> str:
    """Return what a run of the winner cost beside a sparse one; empty where no seed has both."""
    records = {confirmed.arm.name: confirmed.result.records for confirmed in data.confirmed}
    found = cpu_ratio(records.get(WINNER, ()), records.get(SPARSE, ()))
    return "" if found is None else words.cost(found, records[WINNER])


def _share_colours(data: ReportData) -> dict[str, str]:
    shares = data.winner.shape.active_methods() if data.winner else {}
    return {name: figures.OTHER_COLOURS[place % len(figures.OTHER_COLOURS)] for place, name in enumerate(shares)}


def _method_words(data: ReportData) -> dict[str, str]:
    """Return explanations of the methods that the page names."""
    shapes = [trial.tried.shape for trial in data.trials if trial.tried]
    shapes += [confirmed.arm.shape for confirmed in data.confirmed]
    named = {name for shape in shapes for name in shape.active_methods()}
    named |= {row.method for sample in data.samples for row in sample.rows}
    return {name: text for name, text in words.METHOD_WORDS.items() if name in named}


LEFT_OUT = "…"
_END = r"\s'\"<>:;,()\[\]{}|"
# At least two parts, so that "and/or" and a lone "/" stay; not inside a word, a tag or a relative path.
_PATH = re.compile(rf"(?<![\w.<:/])~?(?:/[^/{_END}]+)+/([^/{_END}]+)")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s'\"<>]+", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.])")
# A value that is a path as a whole may hold blanks; an address may be a bare host name.
_YAML_PATH = re.compile(r"^(\s*(?:- )*(?:[\w.-]+: )?['\"]?)/(?:[^/\n]+/)+([^/\n]+)$", re.MULTILINE)
_YAML_ADDRESS = re.compile(r"^(\s*address: )(?!local$|auto$).+$", re.MULTILINE)


def shareable(text: str) -> str:
    """Return a text in which of absolute paths only the last part is left, and of addresses only the scheme."""
    home = str(Path.home())
    text = text if len(home) < 2 else text.replace(f"{home}/", "~/")
    text = _URL.sub(rf"\1://{LEFT_OUT}", text)
    return _PATH.sub(rf"{LEFT_OUT}/\1", _IPV4.sub(LEFT_OUT, text))


def shareable_yaml(text: str) -> str:
    """Return a config's text, line for line, in which no folder and no address is left."""
    text = _YAML_PATH.sub(rf"\1{LEFT_OUT}/\2", text)
    return shareable(_YAML_ADDRESS.sub(rf"\1{LEFT_OUT}", text))
