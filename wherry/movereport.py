"""A migration's report as one HTML page: its figures, and a plot of bytes, dirty memory and the pause over time.

The page needs nothing else: the plot is inline SVG, there are no scripts.
"""

from __future__ import annotations

from html import escape
from typing import Any

from wherry import units

PAGE = 4096
WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 150, 90, 24, 46
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; }
svg { font: 12px system-ui, sans-serif; } .axis { stroke: #999; } .pause { fill: #d33; fill-opacity: .35; }
.line { fill: none; stroke-width: 1.6; }
"""


def html(report: dict[str, Any], rows: list[tuple[str, str, str]]) -> str:
    """``report`` as ``GET /v1/migrations/ID`` gives it; ``rows``: figure, value, predicted."""
    title = f"Migration of {report.get('guest', '?')}: {report.get('source', '?')} to {report.get('target', '?')}"
    reason = f"<p>{escape(str(report['reason']))}</p>" if report.get("reason") else ""
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(str(report.get('migration', '')))}, {escape(str(report.get('outcome', '')))}</p>{reason}"
        f"<table><tr><th>figure</th><th>value</th><th>predicted</th></tr>{cells}</table>{plot(report)}</body></html>\n"
    )


def plot(report: dict[str, Any]) -> str:
    """SVG of three curves over the same time; the pause is the red bar. Empty when there are no samples."""
    columns, samples = report.get("columns") or [], report.get("samples") or []
    if not samples:
        return "<p>No samples were kept.</p>"
    at = {name: index for index, name in enumerate(columns)}

    def series(name: str, factor: float = 1.0) -> list[tuple[float, float]]:
        return [(float(row[at["elapsed_ms"]]), factor * float(row[at[name]])) for row in samples]

    until = max(float(report.get("total_ms") or 0), series("round")[-1][0], 1.0)
    parts = [
        _curve(0, "sent", series("bytes_sent"), until, "#2563eb", units.size),
        _curve(1, "dirty", series("dirty_pages", PAGE), until, "#b45309", units.size),
        _curve(2, "throttle", series("throttle"), until, "#7c3aed", lambda v: f"{v:.0f} %"),
        _pause(report, until),
        _times(until),
    ]
    size = f'width="{WIDTH + LEFT + 20}" height="{_y(3)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'


def _y(panel: int) -> float:
    return TOP + panel * (HEIGHT + GAP)


def _x(ms: float, until: float) -> float:
    return LEFT + WIDTH * ms / until


def _curve(panel: int, name: str, points: list[tuple[float, float]], until: float, colour: str, form: Any) -> str:
    most = max((value for _, value in points), default=0.0) or 1.0
    bottom = _y(panel) + HEIGHT
    path = " ".join(f"{_x(t, until):.1f},{bottom - HEIGHT * value / most:.1f}" for t, value in points)
    return (
        f'<text x="4" y="{_y(panel) + 10:.0f}">{escape(form(most))}</text><text x="4" y="{bottom:.0f}">0</text>'
        f'<text x="4" y="{_y(panel) + HEIGHT / 2:.0f}" fill="{colour}">{name}</text>'
        f'<path class="axis" fill="none" d="M{LEFT} {_y(panel):.0f}V{bottom:.0f}H{LEFT + WIDTH}"/>'
        f'<polyline class="line" stroke="{colour}" points="{path}"/>'
    )


def _pause(report: dict[str, Any], until: float) -> str:
    """From the begin of the switch; at least so wide that it is seen."""
    begin = float(report.get("prepare_ms") or 0) + float(report.get("copy_ms") or 0)
    blackout = float(report.get("blackout_ms") or 0)
    if not blackout:
        return ""
    x, width = _x(begin, until), max(WIDTH * blackout / until, 2.0)
    label = f'<text x="{x:.1f}" y="{TOP - 8}">pause {blackout:.1f} ms</text>'
    return f'<rect class="pause" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{_y(2) + HEIGHT - TOP}"/>{label}'


def _times(until: float) -> str:
    y = _y(2) + HEIGHT + 16
    return "".join(
        f'<text x="{_x(until * part / 4, until) - 10:.0f}" y="{y:.0f}">{until * part / 4000:.3g} s</text>'
        for part in range(5)
    )
