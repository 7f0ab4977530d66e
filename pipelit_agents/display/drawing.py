"""Draw the nodes and edges of a graph as SVG, without a browser, a server or another package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Protocol

from pipelit_agents.display.layout import Box, Layout, lay_out
from pipelit_agents.display.text import printable, width_of

__all__ = ["Drawing", "draw"]

# A large graph takes long to lay out, and nobody can read its drawing.
_MAX_NODES: Final = 300
_MAX_EDGES: Final = 1_000
# Columns of a name; the whole name is the tooltip.
_MAX_NAME: Final = 28
# Of a font of 12 pixels, whose columns are 0.6 em wide.
_COLUMN: Final = 7.25
_SMALL_COLUMN: Final = 6.7
_HEIGHT: Final = 30.0
_PADDING: Final = 9.0
_MARGIN: Final = 9.0
_FONT: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_ENDS: Final = {"__start__": "start", "__end__": "end"}
# The panel has a colour of its own, so that it is readable on a page of either theme. Viewers that
# drop the style sheet show the light one, from the attributes.
_STYLE: Final = (
    "@media (prefers-color-scheme:dark){"
    ".pa-panel{fill:#0d1117;stroke:#3d444d}.pa-node{fill:#1c2330;stroke:#7d8793}"
    ".pa-end{fill:#12324f;stroke:#4493f8}.pa-group{fill:#161b22;stroke:#58626d}"
    ".pa-ink{fill:#f0f6fc}.pa-faint{fill:#b1bac4}.pa-halo{stroke:#0d1117}"
    ".pa-edge{stroke:#a3adb8}.pa-tip{fill:#a3adb8}}"
)


class _Edge(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def data(self) -> Any: ...
    @property
    def conditional(self) -> bool: ...


class _Nodes(Protocol):
    @property
    def nodes(self) -> Mapping[str, Any]: ...
    @property
    def edges(self) -> Sequence[_Edge]: ...


class _Drawable(Protocol):
    def get_graph(self, *, xray: int | bool = False) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Arrow:
    source: str
    target: str
    conditional: bool
    label: str


class Drawing:
    """A drawing of a graph: a picture in notebooks, and a list of its edges elsewhere.

    Args:
        svg: The picture.
        text: The list of edges.
    """

    def __init__(self, svg: str, text: str) -> None:
        self._svg = svg
        self._text = text

    @property
    def svg(self) -> str:
        """The picture, to write to a file."""
        return self._svg

    def _repr_svg_(self) -> str:
        return self._svg

    def __repr__(self) -> str:
        return self._text


def draw(graph: _Drawable | _Nodes, *, xray: int | bool = True) -> Drawing:
    """Draw a graph: its nodes from the first to the last, conditional edges dashed.

    LangGraph's own ``draw_mermaid_png`` sends the graph to a server on the internet, or needs a
    browser. This makes an SVG picture by itself. Names are escaped, and cut after 28 characters.

    Args:
        graph: A compiled graph, or what its ``get_graph()`` returned.
        xray: Whether to draw the nodes of graphs that are nodes; a number is the depth. It has no
            meaning for what ``get_graph()`` returned.

    Returns:
        The drawing. A notebook displays it as the result of a cell, and ``drawing.svg`` is its
        text.

    Raises:
        TypeError: ``graph`` isn't a graph.
        ValueError: The graph has more than 300 nodes, or 1,000 edges.

    Example:
        ```python
        from pathlib import Path

        Path("graph.svg").write_text(draw(graph).svg, encoding="utf-8")
        ```
    """
    drawn: Any = graph.get_graph(xray=xray) if hasattr(graph, "get_graph") else graph
    if not (hasattr(drawn, "nodes") and hasattr(drawn, "edges")):
        raise TypeError(
            f"graph: pass a compiled graph, or what its get_graph() returned, "
            f"not {type(graph).__name__}"
        )
    names = [str(each) for each in drawn.nodes]
    if len(names) > _MAX_NODES:
        raise ValueError(
            f"graph: it has {len(names)} nodes, and at most {_MAX_NODES} can be drawn; "
            "pass xray=False, or draw its sub-graphs one by one"
        )
    arrows = list(_arrows(drawn.edges, frozenset(names)))
    if len(arrows) > _MAX_EDGES:
        raise ValueError(
            f"graph: it has {len(arrows):,} edges, and at most {_MAX_EDGES:,} can be drawn; name "
            "the targets of each conditional edge, as without them it leads to every node"
        )
    return Drawing(_picture(names, arrows), _listed(arrows))


def _arrows(edges: Iterable[_Edge], names: frozenset[str]) -> Iterable[_Arrow]:
    for edge in edges:
        source, target = str(edge.source), str(edge.target)
        if source in names and target in names:
            label = "" if edge.data is None else str(edge.data)
            yield _Arrow(source, target, bool(edge.conditional), label)


def _listed(arrows: Sequence[_Arrow]) -> str:
    def line(each: _Arrow) -> str:
        condition = f" (if {each.label})" if each.label else " (conditional)"
        return f"{each.source} -> {each.target}{condition if each.conditional else ''}"

    return "\n".join(printable(line(each)).replace("\n", "\\n") for each in arrows)


def _picture(names: Sequence[str], arrows: Sequence[_Arrow]) -> str:
    ends = [(each.source, each.target) for each in arrows]
    short = {each: _last_part(each) for each in names}
    labelled = any(_is_labelled(each) for each in arrows)

    def arranged() -> Layout:
        widths = {each: _width(short[each]) for each in names}
        titles = {
            ":".join(parts[:count]): width_of(_shown(parts[count - 1])) * _SMALL_COLUMN + 20
            for parts in (each.split(":") for each in names)
            for count in range(1, len(parts))
        }
        return lay_out(widths, ends, height=_HEIGHT, labelled=labelled, titles=titles)

    layout = arranged()
    mixed = _mixed_groups(layout)
    if mixed:
        # Without its frame, a group is named by each of its nodes.
        short = {
            each: each if any(each.startswith(f"{group}:") for group in mixed) else short[each]
            for each in names
        }
        layout = arranged()
        mixed = mixed | _mixed_groups(layout)
    parts = [_frame(name, box) for name, box in layout.groups.items() if name not in mixed]
    # Labels are drawn over lines, and nodes over both.
    parts += [_line(path, each) for each, path in zip(arrows, layout.paths, strict=True)]
    parts += [
        _edge_label(path, each.label)
        for each, path in zip(arrows, layout.paths, strict=True)
        if _is_labelled(each)
    ]
    parts += [_node(each, short[each], layout.boxes[each]) for each in names]
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:100%;height:auto" role="img" '
        f'aria-label="A graph with {len(names)} nodes and {len(arrows)} edges" '
        f'font-family="{_FONT}" font-size="12"><style>{_STYLE}</style>'
        f'<rect class="pa-panel" x="0.5" y="0.5" width="{width - 1:.0f}" '
        f'height="{height - 1:.0f}" rx="8" fill="#ffffff" stroke="#d1d9e0"/>'
        f'<g transform="translate({_MARGIN:g} {_MARGIN:g})">{"".join(parts)}</g></svg>'
    )


def _is_labelled(arrow: _Arrow) -> bool:
    return arrow.label not in ("", arrow.target, _last_part(arrow.target))


def _mixed_groups(layout: Layout) -> frozenset[str]:
    """Return the groups whose frame would enclose, or cut, a node that isn't theirs."""
    return frozenset(
        name
        for name, frame in layout.groups.items()
        if any(
            not each.startswith(f"{name}:") and box.overlaps(frame)
            for each, box in layout.boxes.items()
        )
    )


def _last_part(name: str) -> str:
    return name.rpartition(":")[2] or name


def _shown(name: str) -> str:
    name = printable(_ENDS.get(name, name)).replace("\n", "\\n")
    kept = ""
    for each in name:
        if width_of(kept + each) > _MAX_NAME:
            return f"{kept[:-1]}…"
        kept += each
    return kept


def _width(name: str) -> float:
    return max(50.0, width_of(_shown(name)) * _COLUMN + 2 * _PADDING)


def _node(name: str, short: str, box: Box) -> str:
    is_end = short in _ENDS
    look = (
        'class="pa-end" fill="#ddf4ff" stroke="#0969da"'
        if is_end
        else 'class="pa-node" fill="#f6f8fa" stroke="#59636e"'
    )
    return (
        f"<g><title>{escape(printable(name))}</title>"
        f'<rect {look} x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="{box.height / 2 if is_end else 6:g}"/>'
        f'<text class="pa-ink" fill="#1f2328" text-anchor="middle" x="{box.middle:.1f}" '
        f'y="{box.top + box.height / 2 + 4.2:.1f}">{escape(_shown(short))}</text></g>'
    )


def _frame(name: str, box: Box) -> str:
    return (
        f'<rect class="pa-group" fill="#fbfcfd" stroke="#8c959f" stroke-dasharray="2 3" '
        f'x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="8"/>'
        f'<text class="pa-faint" fill="#59636e" font-size="11" x="{box.left + 9:.1f}" '
        f'y="{box.top + 15:.1f}">{escape(_shown(_last_part(name)))}</text>'
    )


def _line(path: Sequence[tuple[float, float]], arrow: _Arrow) -> str:
    dashes = ' stroke-dasharray="5 4"' if arrow.conditional else ""
    if arrow.source == arrow.target:
        (x, y), (out, _), (_, end) = path
        drawn = [
            f"M{x:.1f} {y:.1f}C{out:.1f} {y - 6:.1f} {out:.1f} {end + 6:.1f} {x:.1f} {end:.1f}"
        ]
        tip = f"{x:.1f},{end:.1f} {x + 8:.1f},{end - 4:.1f} {x + 8:.1f},{end + 4:.1f}"
    else:
        (x, y), *rest = path
        drawn = [f"M{x:.1f} {y:.1f}"]
        for x2, y2 in rest:
            half = (y + y2) / 2
            drawn.append(f"C{x:.1f} {half:.1f} {x2:.1f} {half:.1f} {x2:.1f} {y2:.1f}")
            x, y = x2, y2
        # The curve ends vertically, so the tip points down, or up where the edge goes back.
        foot = y + (8 if path[-1][1] < path[-2][1] else -8)
        tip = f"{x:.1f},{y:.1f} {x - 4:.1f},{foot:.1f} {x + 4:.1f},{foot:.1f}"
    return (
        f'<path class="pa-edge" fill="none" stroke="#59636e" stroke-width="1.4"{dashes} '
        f'd="{"".join(drawn)}"/><polygon class="pa-tip" fill="#59636e" points="{tip}"/>'
    )


def _edge_label(path: Sequence[tuple[float, float]], label: str) -> str:
    # On the first part, nearer to its end, where the edges of one condition are apart.
    (x, y), (x2, y2) = path[0], path[1]
    return (
        f'<text class="pa-faint pa-halo" fill="#59636e" stroke="#ffffff" stroke-width="4" '
        f'paint-order="stroke" font-size="11" text-anchor="middle" x="{x + (x2 - x) * 0.65:.1f}" '
        f'y="{y + (y2 - y) * 0.57 + 4:.1f}">{escape(_shown(label))}</text>'
    )
