"""The picture of the README: how many times better than the best other system, a bar a row.

Written by hand as SVG, in colours that can be read on light and dark paper. The scale is
logarithmic; bars begin at 1, what is worse than the best points to the left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

ROW_HEIGHT = 22
BAR_HEIGHT = 13
TITLES_WIDTH = 345
BARS_WIDTH = 470
MARGIN = 12
TOP = 46
END_ROOM = 74
"""Beside the longest bar, for its number."""

STYLE = """
text {
  font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif;
  fill: #6e7781;
}
.row { fill: #57606a; }
.factor { font-weight: 600; fill: #57606a; }
.better { fill: #2f81f7; }
.worse { fill: #db6d28; }
.grid { stroke: #8b949e; stroke-opacity: 0.35; }
.one { stroke: #8b949e; }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e; }
  .row, .factor { fill: #c9d1d9; }
}
"""


@dataclass(frozen=True)
class Bar:
    """A row of the table: how many times better than whom."""

    title: str
    factor: float
    rival: str


def picture(bars: Sequence[Bar], heading: str) -> str:
    """The whole SVG."""
    low, high = _decades(bars)
    bottom = TOP + ROW_HEIGHT * len(bars)
    width, height = TITLES_WIDTH + BARS_WIDTH + END_ROOM + 2 * MARGIN, bottom + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(heading)}">',
        f"<style>{STYLE}</style>",
        f'<text x="{MARGIN}" y="18" class="factor">{escape(heading)}</text>',
    ]
    parts += [_grid_line(decade, low, high, bottom) for decade in range(low, high + 1)]
    for place, bar in enumerate(bars):
        parts += _bar(bar, TOP + ROW_HEIGHT * place, low, high)
    return "\n".join([*parts, "</svg>", ""])


def _decades(bars: Sequence[Bar]) -> tuple[int, int]:
    """The powers of ten between which every bar ends, 1 among them."""
    ends = [log10(bar.factor) for bar in bars]
    return min(0, floor(min(ends, default=0))), max(1, ceil(max(ends, default=1)))


def _x(value: float, low: int, high: int) -> float:
    return MARGIN + TITLES_WIDTH + BARS_WIDTH * (log10(value) - low) / (high - low)


def _grid_line(decade: int, low: int, high: int, bottom: int) -> str:
    x = _x(10.0**decade, low, high)
    kind = "one" if decade == 0 else "grid"
    return (
        f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"/>'
        f'<text x="{x:.1f}" y="{TOP - 11}" text-anchor="middle">{10.0**decade:,g}x</text>'
    )


def _bar(bar: Bar, y: int, low: int, high: int) -> list[str]:
    one, end = _x(1, low, high), _x(bar.factor, low, high)
    left, right = min(one, end), max(one, end)
    text_y = y + ROW_HEIGHT / 2 + 4
    kind = "better" if bar.factor >= 1 else "worse"
    digits = 0 if bar.factor >= 10 else 1 if bar.factor >= 1 else 2
    return [
        f'<text class="row" x="{MARGIN + TITLES_WIDTH - 10}" y="{text_y:g}" text-anchor="end">'
        f"{escape(bar.title)}</text>",
        f'<rect class="{kind}" x="{left:.1f}" y="{y + (ROW_HEIGHT - BAR_HEIGHT) / 2:g}" '
        f'width="{max(right - left, 1.5):.1f}" height="{BAR_HEIGHT}" rx="2"/>',
        f'<text x="{right + 6:.1f}" y="{text_y:g}"><tspan class="factor">'
        f"{bar.factor:,.{digits}f}x</tspan> {escape(bar.rival)}</text>",
    ]
