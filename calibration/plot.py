"""The curve of accuracy against mean cost as an SVG, drawn by hand: no plotting package is needed where dynvid runs."""

from __future__ import annotations

from pathlib import Path

from ..grid.errors import ResourceError
from .sweep import Outcome, Point

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 640, 400, 64, 48, 20
_UNITS = {"gmacs": "mean GMACs a video", "ms": "mean ms a video", "exits": "mean exit"}


def write_curve(path: Path, points: list[Point], chosen: Outcome, unit: str) -> None:
    """Write the curve with its 95 % intervals: held-out figures, or, hollow and named so, in-sample ones.

    Args:
        path: of the ``.svg``.
        points: one a q.
        chosen: what the chosen thresholds do, drawn as a ring.
        unit: of the cost axis.

    Raises:
        ResourceError: If it cannot be written.
    """
    try:
        path.write_text(_svg(points, chosen, unit))
    except OSError as error:
        raise ResourceError(f"plot {str(path)!r} cannot be written ({error.strerror}): give another --plot") from None


def _svg(points: list[Point], chosen: Outcome, unit: str) -> str:
    held_out = points[0].held_out is not None
    outcomes = [point.held_out or point.in_sample for point in points]
    labelled = outcomes[0].accuracy is not None
    bounds = [(o.accuracy_interval if labelled else o.agreement_interval) or (0.0, 1.0) for o in [*outcomes, chosen]]
    costs = [o.means[unit] for o in [*outcomes, chosen]]
    x0, x1, y0, y1 = min(costs), max(costs), min(b[0] for b in bounds), max(b[1] for b in bounds)
    wide, high = (x1 - x0) or 1.0, (y1 - y0) or 1.0

    def place(cost: float, quality: float) -> tuple[float, float]:
        x = _LEFT + (cost - x0) / wide * (_WIDTH - _LEFT - _MARGIN)
        return x, _MARGIN + (y1 - quality) / high * (_HEIGHT - _BOTTOM - _MARGIN)

    shapes = []
    for one in range(6):
        x, y = place(x0 + wide * one / 5, y0 + high * one / 5)
        shapes += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y0 + high * one / 5:.1%}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x0 + wide * one / 5:.4g}</text>',
        ]
    marks = [place(o.means[unit], o.quality) for o in outcomes]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(marks))
    shapes.append(f'<polyline points="{line}" fill="none" stroke="#268"/>')
    for (x, y), (low, top), point in zip(marks, bounds, points, strict=False):
        shapes += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{place(x0, top)[1]:.1f}" y2="{place(x0, low)[1]:.1f}" stroke="#8bd"/>',
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" stroke="#268" fill="{"#268" if held_out else "#fff"}">'
            f"<title>q = {point.exits.q:g}</title></circle>",
        ]
    x, y = place(chosen.means[unit], chosen.quality)
    shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none" stroke="#c33" stroke-width="2"/>')
    name = "accuracy" if labelled else "agreement with the last checkpoint"
    whose = f"{outcomes[0].videos} held-out videos" if held_out else f"{outcomes[0].videos} videos, in sample"
    shapes.append(f'<text x="{_LEFT}" y="13">{name}, {whose}; bars: 95 %; ring: chosen</text>')
    shapes.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{_UNITS.get(unit, unit)}</text>')
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )
