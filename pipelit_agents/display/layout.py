"""Lay out a graph in layers, from the first nodes to the last, after Sugiyama.

Edges that go back are turned round, nodes are put below all nodes that lead to them, long edges get
a point in each layer that they pass, and nodes are ordered by the middle of their neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["Box", "Layout", "lay_out"]

_GAP: Final = 13.0
# Beside a line that passes a layer.
_LINE_GAP: Final = 9.0
_LAYER_GAP: Final = 44.0
_LABELLED_GAP: Final = 62.0
_SWEEPS: Final = 8
# Places that all sweeps together visit: with many long edges fewer sweeps are made, so that the
# largest graph takes seconds.
_MAX_VISITS: Final = 40_000
# Around the nodes of a group, and above them for its name.
_GROUP_PADDING: Final = 9.0
_GROUP_HEAD: Final = 22.0
# Between the frame of a group and what is beside it.
_BESIDE: Final = 14.0
# How far a loop of one node stands out.
_LOOP: Final = 30.0
# A point of an edge, in a layer that it passes: from, to, and the layer.
_Bend = tuple[str, str, int]
_Place = str | _Bend


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The horizontal middle."""
        return self.left + self.width / 2

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.top + self.height

    def overlaps(self, other: Box) -> bool:
        """Return whether some of it is inside of the other."""
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are drawn.

    Attributes:
        boxes: The nodes.
        paths: The points of each edge, from its source to its target.
        groups: The frames of nodes with the same beginning of their name, the outer ones first.
        width: The width of it all.
        height: The height of it all.
    """

    boxes: Mapping[str, Box]
    paths: Sequence[Sequence[tuple[float, float]]]
    groups: Mapping[str, Box]
    width: float
    height: float


def lay_out(
    widths: Mapping[str, float],
    edges: Sequence[tuple[str, str]],
    *,
    height: float,
    labelled: bool = False,
    titles: Mapping[str, float] | None = None,
) -> Layout:
    """Lay out a graph.

    Args:
        widths: The nodes, with their widths.
        edges: The edges between them.
        height: The height of each node.
        labelled: Whether edges have labels, which need room between the layers.
        titles: The widths of the names of groups, which their frames have room for.
    """
    titles = titles or {}
    forward = _without_circles(list(widths), edges)
    layer = _layers(list(widths), forward)
    bends = {edge: _bends(edge, layer) for edge in forward}
    above: dict[_Place, list[_Place]] = defaultdict(list)
    below: dict[_Place, list[_Place]] = defaultdict(list)
    for (source, target), between in bends.items():
        chain: list[_Place] = [source, *between, target]
        for upper, lower in pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
    rows = _rows(list(widths), layer, [each for some in bends.values() for each in some])
    places = [each for row in rows for each in row]
    group_of = {each: _group_of(each) for each in places}
    sweeps = max(2, min(_SWEEPS, _MAX_VISITS // max(1, len(places))))
    for sweep in range(sweeps):
        neighbours = below if sweep % 2 else above
        rows = _sorted(rows, neighbours, group_of, down=sweep % 2 == 0)
    all_widths: dict[_Place, float] = dict.fromkeys(places, 0.0)
    all_widths.update(_with_titles(widths, titles))
    middles = _middles(rows, all_widths, group_of, above, below, sweeps=2 * sweeps)
    _clear_groups(rows, all_widths, middles)
    tops = _tops(rows, height, gap=_LABELLED_GAP if labelled else _LAYER_GAP)
    boxes = {
        name: Box(middles[name] - widths[name] / 2, tops[layer[name]], widths[name], height)
        for name in widths
    }
    bend_at = {
        bend: (middles[bend], tops[bend[2]] + height / 2)
        for row in rows
        for bend in row
        if not isinstance(bend, str)
    }
    both_ways = {(target, source) for source, target in edges} & set(edges)
    paths = [_path(edge, boxes, bends, bend_at, edge in both_ways) for edge in edges]
    return _moved_to_origin(boxes, paths, _groups(boxes, titles))


def _without_circles(
    names: Sequence[str], edges: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the edges without doubles and loops, and with those turned round that go back."""
    after: dict[str, list[str]] = defaultdict(list)
    for source, target in dict.fromkeys(edges):
        if source != target:
            after[source].append(target)
    found: dict[tuple[str, str], None] = {}
    state: dict[str, int] = {}
    targets = {each for some in after.values() for each in some}
    # Nodes that nothing leads to first, so that the edges that lead back to them are turned.
    for first in sorted(names, key=lambda each: each in targets):
        if first in state:
            continue
        state[first] = 1
        stack = [(first, iter(after[first]))]
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[name] = 2
                stack.pop()
                continue
            target = following
            if state.get(target) == 1:
                found[target, name] = None
            else:
                found[name, target] = None
                if target not in state:
                    state[target] = 1
                    stack.append((target, iter(after[target])))
    return list(found)


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the layer of each node: below all nodes that lead to it."""
    before: dict[str, int] = dict.fromkeys(names, 0)
    after: dict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        after[source].append(target)
        before[target] += 1
    layer = dict.fromkeys(names, 0)
    ready = [each for each in names if not before[each]]
    for name in ready:
        for target in after[name]:
            layer[target] = max(layer[target], layer[name] + 1)
            before[target] -= 1
            if not before[target]:
                ready.append(target)
    return layer


def _bends(edge: tuple[str, str], layer: Mapping[str, int]) -> list[_Bend]:
    source, target = edge
    return [(source, target, each) for each in range(layer[source] + 1, layer[target])]


def _rows(
    names: Sequence[str], layer: Mapping[str, int], bends: Sequence[_Bend]
) -> list[list[_Place]]:
    rows: list[list[_Place]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for name in names:
        rows[layer[name]].append(name)
    for bend in bends:
        rows[bend[2]].append(bend)
    return rows


def _group_of(place: _Place) -> str:
    """Return the outermost group of a node; of a bend, if both ends are in it."""
    if isinstance(place, str):
        return place.partition(":")[0] if ":" in place else ""
    source, target = _group_of(place[0]), _group_of(place[1])
    return source if source == target else ""


def _sorted(
    rows: list[list[_Place]],
    neighbours: Mapping[_Place, list[_Place]],
    group_of: Mapping[_Place, str],
    *,
    down: bool,
) -> list[list[_Place]]:
    """Sort each row by the middle of its neighbours in the row before; a group stays together."""
    found = list(rows)
    numbers = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
    for number in numbers:
        before = found[number - 1 if down else number + 1]
        at = {place: index / max(1, len(before) - 1) for index, place in enumerate(before)}
        row = found[number]
        own: dict[_Place, float] = {}
        for index, place in enumerate(row):
            found_at = [at[each] for each in neighbours.get(place, ()) if each in at]
            own[place] = sum(found_at) / len(found_at) if found_at else index / max(1, len(row) - 1)
        groups: dict[str, list[float]] = defaultdict(list)
        for place in row:
            groups[group_of[place]].append(own[place])
        middle = {name: sum(some) / len(some) for name, some in groups.items()}
        found[number] = sorted(
            row,
            key=lambda place: (
                middle[group] if (group := group_of[place]) else own[place],
                group,
                own[place],
            ),
        )
    return found


def _middles(
    rows: Sequence[Sequence[_Place]],
    widths: Mapping[_Place, float],
    group_of: Mapping[_Place, str],
    above: Mapping[_Place, list[_Place]],
    below: Mapping[_Place, list[_Place]],
    *,
    sweeps: int,
) -> dict[_Place, float]:
    """Return the horizontal middle of each place: near to its neighbours, without overlaps."""
    found: dict[_Place, float] = {}
    for row in rows:
        _spread(row, widths, group_of, dict.fromkeys(row, 0.0), found)
    for sweep in range(sweeps):
        neighbours = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = {}
            for place in row:
                others = [found[each] for each in neighbours.get(place, ())]
                wanted[place] = sum(others) / len(others) if others else found[place]
            _spread(row, widths, group_of, wanted, found)
    return found


def _spread(
    row: Sequence[_Place],
    widths: Mapping[_Place, float],
    group_of: Mapping[_Place, str],
    wanted: Mapping[_Place, float],
    found: dict[_Place, float],
) -> None:
    """Put each place of a row as near as can be to where it wants to be, in this order.

    Places that would overlap are joined to a block, which goes to the middle of what its places
    want.
    """
    # A block: its places, how far each is from the first, and the sum of what they want of it.
    blocks: list[tuple[list[_Place], list[float], float]] = []
    for place in row:
        block: tuple[list[_Place], list[float], float] = ([place], [0.0], wanted[place])
        while blocks:
            places, offsets, sum_wanted = blocks[-1]
            step = offsets[-1] + _distance(places[-1], block[0][0], widths, group_of)
            first, second = sum_wanted / len(places), block[2] / len(block[0])
            if first + step <= second:
                break
            blocks.pop()
            sum_wanted = sum_wanted + block[2] - step * len(block[0])
            places += block[0]
            offsets += [step + each for each in block[1]]
            block = (places, offsets, sum_wanted)
        blocks.append(block)
    for places, offsets, sum_wanted in blocks:
        for place, offset in zip(places, offsets, strict=True):
            found[place] = sum_wanted / len(places) + offset


def _distance(
    left: _Place,
    right: _Place,
    widths: Mapping[_Place, float],
    group_of: Mapping[_Place, str],
) -> float:
    gap = _GAP if isinstance(left, str) and isinstance(right, str) else _LINE_GAP
    if group_of[left] != group_of[right]:
        gap += _GROUP_PADDING
    return (widths[left] + widths[right]) / 2 + gap


def _clear_groups(
    rows: Sequence[Sequence[_Place]], widths: Mapping[_Place, float], middles: dict[_Place, float]
) -> None:
    """Move everything outside a group away from its frame, in the rows of the group."""
    groups = {
        group for row in rows for each in row if isinstance(each, str) for group in _groups_of(each)
    }
    # Inner frames first, as the outer ones enclose what they moved.
    for group in sorted(groups, key=lambda each: (-each.count(":"), each)):
        members = [[each for each in row if _is_inside(each, group)] for row in rows]
        numbers = [number for number, some in enumerate(members) if some]
        inside = [each for some in members for each in some]
        left = min(middles[each] - widths[each] / 2 for each in inside) - _GROUP_PADDING
        right = max(middles[each] + widths[each] / 2 for each in inside) + _GROUP_PADDING
        for number in range(numbers[0], numbers[-1] + 1):
            row, own = rows[number], members[number]
            middle = middles[own[0]] if own else (left + right) / 2
            inner = set(own)
            others = [each for each in row if each not in inner]
            before = [each for each in others if middles[each] < middle]
            after = [each for each in others if middles[each] >= middle]
            over = max((middles[each] + widths[each] / 2 for each in before), default=left)
            under = min((middles[each] - widths[each] / 2 for each in after), default=right)
            for each in before:
                middles[each] -= max(0.0, over + _BESIDE - left)
            for each in after:
                middles[each] += max(0.0, right + _BESIDE - under)


def _is_inside(place: _Place, group: str) -> bool:
    if isinstance(place, str):
        return place.startswith(f"{group}:")
    return _is_inside(place[0], group) and _is_inside(place[1], group)


def _tops(rows: Sequence[Sequence[_Place]], height: float, *, gap: float) -> list[float]:
    """Return the top of each row, with room for the names of the groups that begin there."""
    found: list[float] = []
    top = 0.0
    seen: set[str] = set()
    for row in rows:
        groups = {each for place in row if isinstance(place, str) for each in _groups_of(place)}
        begun = max((each.count(":") + 1 for each in groups - seen), default=0)
        seen |= groups
        top += begun * (_GROUP_HEAD - 4)
        found.append(top)
        top += height + gap
    return found


def _groups_of(name: str) -> list[str]:
    parts = name.split(":")
    return [":".join(parts[:count]) for count in range(1, len(parts))]


def _with_titles(widths: Mapping[str, float], titles: Mapping[str, float]) -> dict[str, float]:
    """Return how much room each node needs: that of its group's name, if it is alone there."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in widths:
        for group in _groups_of(name):
            members[group].append(name)
    found = dict(widths)
    for group, names in members.items():
        if len(names) == 1:
            wanted = titles.get(group, 0.0) - 2 * _GROUP_PADDING
            found[names[0]] = max(found[names[0]], wanted)
    return found


def _groups(boxes: Mapping[str, Box], titles: Mapping[str, float]) -> dict[str, Box]:
    inside: dict[str, list[Box]] = defaultdict(list)
    for name, box in boxes.items():
        for group in _groups_of(name):
            inside[group].append(box)
    deepest = max((each.count(":") for each in inside), default=0)
    found = {}
    for group in sorted(inside, key=lambda each: (each.count(":"), each)):
        # An outer frame has room for the inner ones.
        levels = deepest - group.count(":") + 1
        padding, head = levels * _GROUP_PADDING, levels * _GROUP_HEAD
        left = min(each.left for each in inside[group]) - padding
        right = max(each.left + each.width for each in inside[group]) + padding
        missing = max(0.0, titles.get(group, 0.0) - (right - left)) / 2
        left, right = left - missing, right + missing
        top = min(each.top for each in inside[group]) - head
        bottom = max(each.bottom for each in inside[group]) + padding
        found[group] = Box(left, top, right - left, bottom - top)
    return found


def _path(
    edge: tuple[str, str],
    boxes: Mapping[str, Box],
    bends: Mapping[tuple[str, str], Sequence[_Bend]],
    bend_at: Mapping[_Bend, tuple[float, float]],
    both_ways: bool,
) -> list[tuple[float, float]]:
    source, target = edge
    begin, end = boxes[source], boxes[target]
    if source == target:
        right, middle = begin.left + begin.width, begin.top + begin.height / 2
        return [(right, middle - 8), (right + _LOOP, middle), (right, middle + 8)]
    if edge in bends:
        between = [bend_at[each] for each in bends[edge]]
        shift = 12.0 if both_ways and not between else 0.0
        return [(begin.middle - shift, begin.bottom), *between, (end.middle - shift, end.top)]
    between = [bend_at[each] for each in reversed(bends[target, source])]
    # Beside the edge that leads there, if there is one.
    shift = 14.0 if both_ways and not between else 0.0
    return [(begin.middle + shift, begin.top), *between, (end.middle + shift, end.bottom)]


def _moved_to_origin(
    boxes: Mapping[str, Box],
    paths: Sequence[Sequence[tuple[float, float]]],
    groups: Mapping[str, Box],
) -> Layout:
    all_boxes = [*boxes.values(), *groups.values()]
    xs = [x for path in paths for x, _ in path] + [each.left for each in all_boxes]
    ys = [y for path in paths for _, y in path] + [each.top for each in all_boxes]
    left, top = min(xs, default=0.0), min(ys, default=0.0)
    xs += [each.left + each.width for each in all_boxes]
    ys += [each.bottom for each in all_boxes]

    def moved(box: Box) -> Box:
        return Box(box.left - left, box.top - top, box.width, box.height)

    return Layout(
        {name: moved(box) for name, box in boxes.items()},
        [[(x - left, y - top) for x, y in path] for path in paths],
        {name: moved(box) for name, box in groups.items()},
        max(xs, default=0.0) - left,
        max(ys, default=0.0) - top,
    )
