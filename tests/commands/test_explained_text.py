"""An explanation on the terminal: every token is there once in each row, in readable colours, and none is obeyed."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.commands.explain import LEAST_DEPTH, show_explanation, token_colour
from pipeline.explain.explain import Explanation
from pipeline.report.words import signed
from shaping.printable import printable
from tests.support.explanations import written
from tests.support.hostile import ESCAPES, MARKUP, PAYLOADS

STYLE = re.compile("\x1b\\[[0-9;]*m")
WORDS = [" alpha", "beta", " gamma", ",", " delta"]
ROWS = {"winner": [0.5, -0.25, 0.0, 1.0, -0.125], "sparse": [0.0, 0.0, 0.0, 0.0, 1.125]}


def shown(explanation: Explanation, colours: str | None = "truecolor", numbers: bool = False, width: int = 100) -> str:
    written = StringIO()
    terminal = colours is not None
    system: object = {"color_system": colours} if terminal else {}
    console = Console(file=written, force_terminal=terminal, width=width, highlight=False, **system)  # type: ignore
    show_explanation(explanation, console, numbers)
    return written.getvalue()


def test_each_row_holds_each_token_once_in_the_colours_of_its_reward() -> None:
    text = shown(written(WORDS, ROWS))
    lines = [line for line in text.splitlines() if "alpha" in line]
    assert len(lines) == 2 and len(STYLE.findall(lines[0])) > len(STYLE.findall(lines[1])) > 0
    for line, name in zip(lines, ROWS, strict=True):
        assert STYLE.sub("", line).split(maxsplit=1) == [name, "alphabeta gamma, delta"]
    plain = STYLE.sub("", text)
    assert plain.count("sum +1.125 = score") == 2 and "score   +1.125" in plain and "prompt  why" in plain
    assert "sums kept, causal" in plain and "moved 1.500" in plain
    # What has no reward has no colours; all others have their own.
    assert re.search(
        r"\x1b\[38;2;0;0;0;48;2;\d+;\d+;\d+m alpha\x1b\[0m\x1b\[38;[0-9;]+mbeta\x1b\[0m gamma\x1b", lines[0]
    )
    assert re.search(r" alphabeta gamma,\x1b\[38;[0-9;]+m delta\x1b\[0m", lines[1])


def test_a_sum_that_is_not_the_score_is_shown_as_what_it_is() -> None:
    broken = {"winner": ROWS["winner"], "sparse": [0.0, 0.0, 0.0, 0.0, 1.0]}
    assert "sum +1.000 ≠ score" in STYLE.sub("", shown(written(WORDS, broken)))
    assert "+1.000 ≠ score" in shown(written(WORDS, broken), None)


@pytest.mark.parametrize("variable", ["NO_COLOR=1", "TERM=dumb", "TERM=linux", ""])
def test_without_colours_every_number_is_printed(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if variable:
        monkeypatch.setenv(*variable.split("="))
    file = StringIO()
    console = Console(file=file, force_terminal=bool(variable), highlight=False, width=100)
    show_explanation(written(WORDS, ROWS), console)
    text = file.getvalue()
    assert not re.search("\x1b\\[[0-9;]*[34][0-9]", text)
    lines = [STYLE.sub("", line) for line in text.splitlines()]
    for place, token in enumerate(WORDS):
        (line,) = [line for line in lines if line.startswith(f"{token} ")]
        assert line.split()[-2:] == [signed(row[place]) for row in ROWS.values()]
    assert "sum +1.125 +1.125" in " ".join(" ".join(lines).split())


def test_numbers_stand_below_the_colours_in_blocks_that_fit_the_terminal() -> None:
    rows = {f"method number {n}": ROWS["winner"] for n in range(7)}
    text = STYLE.sub("", shown(written(WORDS, rows), numbers=True, width=70))
    table = text.split("\n\n")[2:-2]
    assert len(table) == 3
    assert all(cell_len(line) <= 70 for block in table for line in block.splitlines())
    assert sum(block.count("+1.000") for block in table) == 7
    assert STYLE.sub("", shown(written(WORDS, rows), width=70)).count("−0.250") == 0
    # Nothing is cut where a file is written.
    header = shown(written(WORDS, rows), None, width=70).split("\n\n")[1].splitlines()[0]
    assert header.count("method number") == 7


@pytest.mark.parametrize("colours", ["truecolor", None])
@pytest.mark.parametrize("text", [*PAYLOADS, ESCAPES, MARKUP, "two\nlines\r\n", "a\ttab", "", " "])
def test_what_a_model_wrote_is_shown_and_not_obeyed(text: str, colours: str | None) -> None:
    explanation = written([text, "end"], {text or "row": [1.0, -1.0], "other": [0.0, 0.0]}, prompt=text, title=text)
    found = STYLE.sub("", shown(explanation, colours, numbers=True, width=4000))
    assert all(printable(letter) == letter for letter in found) and "\t" not in found
    token = printable(text.replace("\r", "").replace("\n", "↵") or "∅").replace("\t", "⇥")
    assert token in found


def brightness(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_colours_tell_the_sign_rise_with_the_reward_and_can_be_read(sign: float) -> None:
    spreads = []
    for step in range(round(100 * LEAST_DEPTH) + 1, 101):
        style = token_colour(sign, step / 100)
        assert style.color is not None and style.bgcolor is not None
        back = style.bgcolor.get_truecolor()
        assert (back.blue > back.red) == (sign > 0)
        spreads.append(abs(back.blue - back.red))
        contrast = (brightness(back.hex) + 0.05) / (brightness(style.color.get_truecolor().hex) + 0.05)
        assert contrast >= 4.5
        # Seen on black and on white alike.
        assert brightness(back.hex) + 0.05 > 3 * 0.05 and 1.05 > 1.8 * (brightness(back.hex) + 0.05)
    assert spreads == sorted(spreads) and spreads[-1] > 2 * spreads[0]
    assert not token_colour(sign, 0.0)
