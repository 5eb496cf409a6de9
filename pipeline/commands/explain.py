"""An explanation on the terminal: coloured tokens, or numbers where there are no colours."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from pipeline.explain.explain import Explanation, moved
from pipeline.explain.samples import TokenRow, TokenSample
from pipeline.report import words
from pipeline.report.page import token_depths
from shaping.printable import printable

# From grey, which stands out on dark and on light terminals alike, to the report's blue and orange.
POSITIVE, NEGATIVE, GREY = (58, 133, 255), (240, 122, 40), (150, 152, 156)
# Fainter tokens, of less than a fiftieth of the largest reward, have the terminal's own colours.
LEAST_DEPTH = 0.14
DIGITS = 3
NAME_WIDTH = 26


def show_explanation(explanation: Explanation, console: Console, numbers: bool = False) -> None:
    """Print every response with its rows; without colours as numbers, so that nothing is lost.

    Args:
        explanation: What is shown.
        console: Where to; under ``NO_COLOR``, and where it is no terminal of at least 256 colours, there are none.
        numbers: Whether to print every token's numbers below the colours, too.
    """
    # Eight colours are too few to tell much reward from little.
    coloured = console.color_system in ("256", "truecolor") and not console.no_color
    for sample in explanation.samples:
        console.print(_heading(sample), soft_wrap=True)
        console.print()
        if coloured:
            console.print(_coloured(sample))
            console.print()
        if numbers or not coloured:
            for line in _number_lines(sample, console.width if console.is_terminal else None):
                console.print(Text(line), soft_wrap=True)
            console.print()
    for line in _fact_lines(explanation):
        console.print(Text(line), soft_wrap=True)
    console.print(_legend(coloured, next(iter(explanation.shapes)), len(explanation.shapes) > 1), soft_wrap=True)


def token_colour(reward: float, depth: float) -> Style:
    """Return a token's colours; ``depth`` is that of the report, between 0 and 1."""
    if depth < LEAST_DEPTH:
        return Style()
    full = NEGATIVE if reward < 0 else POSITIVE
    red, green, blue = (round(low + (high - low) * depth) for low, high in zip(GREY, full, strict=True))
    return Style(color="#000000", bgcolor=f"#{red:02x}{green:02x}{blue:02x}")


def _token(text: str) -> str:
    # A tab would move what follows it, by how much depends on where it stands.
    return printable(words.token(text)).replace("\t", "⇥")


def _heading(sample: TokenSample) -> Text:
    prompt = printable(sample.prompt).strip().replace("\n", "↵")
    return Text.assemble(("prompt  ", "dim"), prompt, "\n", ("score   ", "dim"), words.signed(sample.score, DIGITS))


def _sum(sample: TokenSample, row: TokenRow) -> str:
    return f"sum {words.signed(row.total, DIGITS)} {'=' if sample.keeps_sum(row) else '≠'} score"


def _coloured(sample: TokenSample) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(max_width=NAME_WIDTH, overflow="fold")
    table.add_column(ratio=1)
    for row, depths in zip(sample.rows, token_depths(sample), strict=True):
        tokens = Text()
        for token, reward, depth in zip(sample.tokens, row.rewards, depths, strict=True):
            tokens.append(_token(token), token_colour(reward, depth))
        name = Text.assemble((printable(row.method), "bold"), "\n", (_sum(sample, row), "dim"))
        table.add_row(name, tokens)
    return table


def _number_lines(sample: TokenSample, width: int | None) -> list[str]:
    """Return a line for each token with its reward in every row, in as many blocks as fit the width."""
    tokens = [_token(token) for token in sample.tokens]
    first = max(5, *(cell_len(token) for token in tokens))
    columns = [_column(sample, row) for row in sample.rows]
    fitting = len(columns) if width is None else max(1, (width - first) // (max(len(c[0]) for c in columns) + 2))
    lines: list[str] = []
    for start in range(0, len(columns), fitting):
        block = columns[start : start + fitting]
        lines += [""] if lines else []
        for label, cells in zip(["", *tokens, "sum"], zip(*block, strict=True), strict=True):
            lines.append(label + " " * (first - cell_len(label)) + "".join(f"  {cell}" for cell in cells))
    return lines


def _column(sample: TokenSample, row: TokenRow) -> list[str]:
    """Return a row as a column of cells of one width: its name, each token's reward, the sum."""
    cells = [printable(row.method), *(words.signed(reward, DIGITS) for reward in row.rewards)]
    cells.append(words.signed(row.total, DIGITS) + ("" if sample.keeps_sum(row) else " ≠ score"))
    width = max(cell_len(cell) for cell in cells)
    return [" " * (width - cell_len(cell)) + cell for cell in cells]


def _fact_lines(explanation: Explanation) -> list[str]:
    """Return a line for each row: its certificate, how far its reward stands from the first row's, what it is."""
    columns: list[list[str]] = [[], [], [], []]
    for place, (name, shape) in enumerate(explanation.shapes.items()):
        far = [words.number(moved(each.rows[0], each.rows[place]), DIGITS) for each in explanation.samples]
        says = words.certificate(explanation.certificates[name])
        cells = [printable(name), says, f"moved {', '.join(far)}" if place else "", printable(words.row(name, shape))]
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    widths = [max(map(cell_len, column)) for column in columns[:-1]]
    lines = []
    for *cells, last in zip(*columns, strict=True):
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True) if width]
        lines.append("  ".join([*padded, last]))
    return lines


def _legend(coloured: bool, first: str, several: bool) -> Text:
    text = Text("\n")
    if coloured:
        text.append("positive", token_colour(1.0, 0.8))
        text.append(" and ")
        text.append("negative", token_colour(-1.0, 0.8))
        text.append(" reward: the fuller the colour, the more, on a square-root scale shared by a response's rows\n")
    text.append("Each row's rewards sum to the score. Causal: no token's reward looks at later tokens.")
    if several:
        text.append(f"\nMoved: reward that stands on other tokens than in '{printable(first)}', in units of the score.")
    return text
