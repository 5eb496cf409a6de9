"""A study whose every text was written by somebody who wants to run code in the reader's browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.trials.arm import Arm
from shaping.shape import Shape
from tests.support.reports.synthetic_study import SyntheticStudy

OWNED = "owned"
RUN = f"document.documentElement.dataset.{OWNED}=1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</style></title></textarea></pre><script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f'"><svg onload={RUN}>',
    f"' onmouseover='{RUN}' x='",
    f'" onfocus="{RUN}" autofocus x="',
    f"<svg><script>{RUN}</script></svg>",
    f'<a href="javascript:{RUN}">here</a>',
    f"<a href='javascript:{RUN}'>here</a><b>bold</b><br><sub>low</sub>",
    f"<!--<script>{RUN}//",
    f"]]><script>{RUN}</script>",
    f"{{{{ ''.__class__.__mro__ }}}}{{% include 'x' %}}<script>{RUN}</script>",
    f"%{{customdata}}<extra><img src=x onerror={RUN}></extra>",
    f"\u2028<script>{RUN}</script>\u2029\x00\x1b[31m",
    "%s %(x)s {0} {x.__class__} $x ${x}",
)
ALL = " ".join(PAYLOADS)
# For a terminal, and for the markup of the console.
ESCAPES = (
    "\x1b]0;title\x07\x1b[2J\x1b[31m\x9b31m\r\x08\x7f\u202e\x00 \x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\"
)
MARKUP = "[link=http://example.org]here[/link] [/] [/nothing] [red]x"


def hostile_study(root: Path, text: str = ALL, **changes: Any) -> SyntheticStudy:
    """Return a whole study with ``text`` wherever a model, a data set, a database or an error may write."""
    study = SyntheticStudy(root, **changes)
    study.search()
    study.confirm()
    study.early_stopping()
    # YAML keeps no control characters; comments are part of the file that the report shows.
    comment = "".join(letter for letter in text if letter.isprintable())
    kept = study.folder.config_file.read_text(encoding="utf-8")
    study.folder.config_file.write_text(f"# {comment}\n{kept}", encoding="utf-8")
    for index, origin in ((4, text), (5, "earlier study"), (12, text)):
        file = study.folder.trial_folder(index) / "trial.json"
        study.write(file, {**json.loads(file.read_text()), "arm": text, "origin": origin})
    for index in (4, 5):
        file = study.folder.trial_folder(index) / "result.json"
        content = json.loads(file.read_text())
        study.write(file, {**content, "arm": {**content["arm"], "name": text}})
    study.failed_trial(10, reason=text, detail=text)
    study.write(study.folder.winner_file, {**study.winner().to_dict(), "name": text})
    indices = {"total": 0.5, "first": 0.25, "direction": 1.0}
    study.write(study.folder.sensitivity_file, {text: indices, f"weight_{text}": indices})
    study.write(study.folder.tokens_file, [_sample(study, text)])
    place = study.folder.confirm / "hostile"
    arm = Arm(text, study.mix(0.3, 0.1))
    study.write(place / "result.json", {"runs": [study.run(100, 1.3, arm.shape)], "arm": arm.to_dict()})
    study.write(study.folder.confirm / "failed" / "failure.json", _failure(text))
    verdict = json.loads(study.folder.verdict_file.read_text())
    differences = [{**row, "rival": text} for row in verdict["differences"]]
    words = {"winner": text, "tuned_rival": text, "steps_to_level": {text: 3}, "text": [text, text]}
    study.write(study.folder.verdict_file, {**verdict, **words, "differences": differences})
    return study


def _failure(text: str) -> dict[str, Any]:
    return {"arm": Arm(text, Shape()).to_dict(), "reason": text, "detail": text}


def _sample(study: SyntheticStudy, text: str) -> dict[str, Any]:
    sample = study.sample(text, "a b c", 1.0)
    tokens = [text, f"a{text}", f"{text}b"]
    return {**sample, "tokens": tokens, "rewards": {**sample["rewards"], text: [1.0, -1.0, 1.0]}}


class Page(HTMLParser):
    """A page's elements and attributes, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.words.append(data)
