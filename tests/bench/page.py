"""What the bench found, as a table for a terminal and as a picture."""
from __future__ import annotations

import math
from typing import Any

Row = dict[str, Any]

#: (heading, member, what is to be reached)
COLUMNS = (
    ("replay", "replay_ratio_to_bare", 1.25), ("activate", "activate_ratio_to_bare", 1.3),
    ("export", "export_ratio_to_bare", 1.3), ("read back", "read_back_ratio_to_bare", None),
    ("planning", "planning_part_of_replay", 0.1), ("window", "activate_part_of_replay", None),
    ("import", "import_ratio_to_bare", 1.3), ("rtslib", "rtslib_ratio_to_bare", None),
    ("targetcli", "targetcli_ratio_to_bare", None))

LEGEND = """
replay     stage and activate against the bare mkdir, write and symlink calls of the same target
activate   what has to wait for the source, against its own bare calls
export     reading the host and making the document, against reading just the files it needs
read back  what import reads and compares before it opens the gate, against reading just the files
           that it reads, once each, and the blocks that prove the storage
planning   reading the document, diff and plan, as part of the replay
window     activate, as part of the replay: what staging keeps out of the blackout
import     all of it: replay, read back, and keeping what configfs does not show, against the bare
           calls and that one reading
rtslib     its restore, targetcli its restoreconfig, against the bare calls; - was stopped or failed
"""


def table(found: Row) -> str:
    """Rows of ratios; one that misses what is to be reached has a mark."""
    lines = [f"kernel {found['kernel']}: ratios, the least of several runs each", "",
             f"{'LUNs':>5}{'ACLs':>5}{'calls':>7}{'bare s':>9}"
             + "".join(f"{name:>11}" for name, _member, _most in COLUMNS)]
    for one in found["rows"]:
        cells = []
        for _name, member, most in COLUMNS:
            value = one.get(member)
            mark = "!" if value is not None and most is not None and value > most else " "
            cells.append(f"{'-' if value is None else format(value, '.2f'):>10}{mark}")
        lines.append(f"{one['luns']:>5}{one['acls']:>5}{one['calls']:>7}"
                     f"{one['bare_seconds']:>9.3f}" + "".join(cells))
    lines += ["", *(f"{text}" for text in growth(found))]
    side = found.get("side_by_side")
    if side:
        lines.append(f"two processes at once take {side['together'] / side['alone']:.2f} of the "
                     f"time of one after the other ({side['processors']:.0f} processors)")
    told = found.get("answers")
    if told:
        lines.append(f"while the service imports {told['luns']} LUNs, 99 of 100 calls are answered "
                     f"in {told['p99_busy_ms']:.0f} ms, idle in {told['p99_idle_ms']:.0f} ms: "
                     f"{told['ratio']:.1f} x ({told['calls_while_busy']} calls; to be reached: 5)")
    return "\n".join(lines) + "\n" + LEGEND


def growth(found: Row) -> list[str]:
    """How the ratios change when the number of LUNs doubles."""
    by_size = {one["luns"]: one for one in found["rows"] if one["acls"] == 1}
    return [f"{luns} -> {2 * luns} LUNs: replay "
            f"{by_size[2 * luns]['replay_ratio_to_bare'] / one['replay_ratio_to_bare']:.2f} x, "
            f"export {by_size[2 * luns]['export_ratio_to_bare'] / one['export_ratio_to_bare']:.2f}"
            " x (to be reached: 1.05)"
            for luns, one in sorted(by_size.items()) if 2 * luns in by_size]


_COLOURS = {"replay": "#1b6ca8", "activate": "#2a9d5c", "export": "#8a5cc2", "rtslib": "#c0392b",
            "targetcli": "#e08e0b"}


def plot(found: Row) -> str:
    """Ratio to bare calls over LUNs (one ACL), both axes logarithmic, as SVG."""
    rows = sorted((one for one in found["rows"] if one["acls"] == 1), key=lambda one: one["luns"])
    most = max([2.0, *(one.get(member) or 0 for one in rows for name, member, _most in COLUMNS
                       if name in _COLOURS)])
    low, high = math.log(rows[0]["luns"]), math.log(rows[-1]["luns"] * 1.01)

    def at(luns: float, ratio: float) -> tuple[float, float]:
        across = (math.log(luns) - low) / (high - low)
        return 60 + 480 * across, 320 - 290 * math.log(ratio / 0.9) / math.log(most * 1.2 / 0.9)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="700" height="370" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="700" height="370" fill="white"/>',
           f'<text x="60" y="18">time against the bare calls, kernel {found["kernel"]}, '
           'one ACL</text>']
    ticks = [one for one in (1, 1.3, 2, 5, 10, 20, 50, 100, 200, 500) if one <= most * 1.1]
    for ratio in ticks:
        _x, y = at(rows[0]["luns"], ratio)
        out.append(f'<line x1="60" x2="540" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>'
                   f'<text x="52" y="{y + 4:.0f}" text-anchor="end">{ratio:g}</text>')
    for one in rows:
        x, _y = at(one["luns"], 1)
        out.append(f'<text x="{x:.0f}" y="340" text-anchor="middle">{one["luns"]}</text>')
    out.append('<text x="300" y="360" text-anchor="middle">LUNs</text>')
    ends: list[float] = []
    for name, member, _most in COLUMNS:
        points = [at(one["luns"], max(one[member], 0.9)) for one in rows if one.get(member)]
        if name not in _COLOURS or not points:
            continue
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        x, y = points[-1]
        while any(abs(y - other) < 13 for other in ends):
            y -= 13
        ends.append(y)
        out.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[name]}" '
                   f'stroke-width="2"/><text x="{x + 8:.0f}" y="{y + 4:.0f}" '
                   f'fill="{_COLOURS[name]}">{name}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
