"""The picture of a bench: one bar a row, how many times better than its peer, on a logarithmic axis.

An SVG written by hand: no library, the same bytes for the same figures. Also puts table and picture into the README,
between the bench's marks.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench.harness import Row
from bench.targets import Targets

LOW, HIGH = 0.125, 32.0  # ends of the axis; a longer bar is cut there, its number stays
LEFT, BARS, LINE, TOP = 120, 500, 22, 64  # room for names, at least, and for bars with their numbers
LETTER = 7  # pixels, about
COLOURS = {"goal": "#1a7f37", "must": "#4393c3", "SHORT": "#c4603b", "WRONG": "#a0002a", "-": "#8c8c8c"}
TEXT = 'font-family="sans-serif" font-size="12" fill="#444"'
SMALL = TEXT.replace('"12"', '"11"')


class Picture:
    """``name``: of the bench ("core"), in files and marks; ``peer_column``: head of the other figure in the table."""

    def __init__(self, name: str, title: str, targets: Targets, peer_column: str) -> None:
        self.name, self.title, self.targets, self.peer_column = name, title, targets, peer_column
        self._left = max(LEFT, 16 + LETTER * max(map(len, targets.specs)))
        self.begin, self.end = f"<!-- bench-{name} -->", f"<!-- /bench-{name} -->"

    def load(self, path: Path) -> tuple[dict[str, Any], list[Row]]:
        """The document that the bench wrote and its rows."""
        document = json.loads(path.read_text())
        rows = []
        for entry in document["rows"]:
            row = self.targets.new_row(entry["name"])
            row.ours, row.peer, row.theirs, row.note = entry["ours"], entry["peer"], entry["theirs"], entry["note"]
            row.native, row.rivals = entry.get("native", []), entry.get("rivals", {})
            rows.append(row)
        return document, rows

    def svg(self, document: dict[str, Any], rows: list[Row]) -> str:
        """The picture of all rows that have an advantage."""
        shown = [row for row in rows if row.advantage is not None]
        width = self._left + BARS
        height = TOP + LINE * len(shown) + 48
        parts = [
            '<svg xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            f'<text x="12" y="20" {TEXT} font-weight="bold">{escape(self.title)}</text>',
            f'<text x="12" y="38" {SMALL}>{escape(str(document["machine"]))}</text>',
        ]
        bottom = TOP + LINE * len(shown)
        for exponent in range(round(math.log2(LOW)), round(math.log2(HIGH)) + 1):
            at = self._x(2.0**exponent)
            stroke = "#666" if exponent == 0 else "#e3e3e3"
            parts.append(f'<line x1="{at:.1f}" y1="{TOP - 6}" x2="{at:.1f}" y2="{bottom}" stroke="{stroke}"/>')
            parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" {TEXT} text-anchor="middle">{2.0**exponent:g}×</text>')
        for index, row in enumerate(shown):
            parts += self._bar(row, TOP + LINE * index)
        legend = "green: goal met, blue: must met, red: short of it, grey: no target; black tick: must"
        parts.append(f'<text x="12" y="{bottom + 36}" {SMALL}>{legend}</text></svg>')
        return "\n".join(parts) + "\n"

    def _bar(self, row: Row, y: int) -> list[str]:
        advantage = row.advantage
        assert advantage is not None
        start, end = sorted((self._x(1.0), self._x(advantage)))
        parts = [
            f'<text x="{self._left - 8}" y="{y + 14}" {TEXT} text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{start:.1f}" y="{y + 3}" width="{max(end - start, 1):.1f}" height="{LINE - 8}" '
            f'fill="{COLOURS[self.targets.verdict(row)]}"/>',
            f'<text x="{end + 5:.1f}" y="{y + 14}" {TEXT}>{advantage:.2f}</text>',
        ]
        target = self.targets.specs[row.name].target
        if target is not None and target.of == "advantage":
            at = self._x(target.must)
            parts.append(
                f'<line x1="{at:.1f}" y1="{y + 1}" x2="{at:.1f}" y2="{y + LINE - 3}" stroke="#000" stroke-width="2"/>'
            )
        return parts

    def _x(self, advantage: float) -> float:
        share = math.log2(min(max(advantage, LOW), HIGH) / LOW) / math.log2(HIGH / LOW)
        return self._left + share * (BARS - 60)

    def write(self, path: Path, target: Path) -> None:
        """Draw the figures in ``path`` (the bench's JSON) into ``target``."""
        target.write_text(self.svg(*self.load(path)))

    def markdown(self, rows: list[Row]) -> str:
        """README's table: medians, advantage, target, verdict and the reason where a row falls short."""
        lines = [
            f"| row | ours | {self.peer_column} | native | advantage | must (goal) | met |",
            "| --- | ---: | ---: | ---: | ---: | --- | --- |",
        ]
        for row in rows:
            ours, theirs, native = (
                f"{statistics.median(x):,.4g}" if x else "-" for x in (row.ours, row.theirs, row.native)
            )
            peer = f" ({row.peer.removeprefix(self.targets.peer_prefix).removesuffix(' tcg')})" if row.peer else ""
            ratio = "-" if row.advantage is None else f"{row.advantage:.2f} ×"
            verdict = self.targets.verdict(row)
            met = {"goal": "goal", "must": "yes", "SHORT": "**no**", "WRONG": "**wrong**"}.get(verdict, "-")
            ours_text = f"{ours} {row.unit}" if row.ours else (row.note or "-")
            target = self.targets.target_text(row.name).replace(">=", "≥").replace("<=", "≤")
            lines.append(f"| `{row.name}` | {ours_text} | {theirs}{peer} | {native} | {ratio} | {target} | {met} |")
        return "\n".join(lines)

    def publish(self, path: Path, root: Path, intro: str) -> None:
        """Put ``intro``, the table and the picture between README's marks; the picture itself goes into docs/."""
        _, rows = self.load(path)
        drawn = f"bench-{self.name}.svg"
        shutil.copyfile(root / "build" / "bench" / f"{self.name}.svg", root / "docs" / drawn)
        readme = root / "README.md"
        before, rest = readme.read_text().split(self.begin, 1)
        _, after = rest.split(self.end, 1)
        picture = f"![advantage by row](docs/{drawn})"
        text = f"{before}{self.begin}\n{intro}\n\n{self.markdown(rows)}\n\n{picture}\n{self.end}{after}"
        readme.write_text(text)
