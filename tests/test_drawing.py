"""Drawings of graphs: their nodes and edges, in a document that no name can break."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables.graph import Edge, Graph, Node
from langgraph.graph import END, START, MessagesState, StateGraph

from pipelit_agents.display import draw
from pipelit_agents.display.layout import lay_out

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<script>alert(1)</script>",
    '"/><image href="https://evil.example/"/>',
    "a & b ' c",
    "line\nbreak\x00\x1b[31m\ud800\u202e",
    "x" * 5000,
    ":",
    "a::b:",
    "",
    "読み取り" * 20,
]
NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=8, unique=True)


def graph_of(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> Graph:
    """A graph as `get_graph()` returns it."""
    nodes = {name: Node(name, name, None, None) for name in names}
    return Graph(nodes, [Edge(source, target) for source, target in edges])


def parsed(svg: str) -> Any:
    """The document; a browser refuses one that isn't well formed."""
    return ElementTree.fromstring(svg)  # noqa: S314 - made by this process


def names_in(svg: str) -> list[str]:
    """The texts of a drawing."""
    return [each.text or "" for each in parsed(svg).iter(f"{SVG}text")]


def agent_graph() -> Any:
    """A loop with a condition, and a graph that is a node."""
    looking = StateGraph(MessagesState).add_node("look", lambda _: {}).add_edge(START, "look")
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda _: {})
    builder.add_node("research", looking.compile())
    builder.add_edge(START, "model")
    builder.add_edge("research", "model")
    builder.add_conditional_edges("model", lambda _: "go on", {"go on": "research", "done": END})
    return builder.compile()


def test_a_graph_of_langgraph() -> None:
    """All nodes, each edge, conditions dashed and named; by its text the same."""
    drawn = draw(agent_graph())
    assert set(names_in(drawn.svg)) == {
        "start",
        "model",
        "research",
        "look",
        "end",
        "go on",
        "done",
    }
    lines = list(parsed(drawn.svg).iter(f"{SVG}path"))
    assert len(lines) == 4
    assert sum("stroke-dasharray" in each.attrib for each in lines) == 2
    assert drawn._repr_svg_() == drawn.svg
    assert "model -> research:look (if go on)" in repr(drawn).splitlines()
    assert "look" not in names_in(draw(agent_graph(), xray=False).svg)
    assert draw(agent_graph().get_graph(xray=True)).svg == drawn.svg


def test_it_is_readable_in_both_themes() -> None:
    """It has its own background in both, also where the style sheet is dropped."""
    svg = draw(agent_graph()).svg
    assert "prefers-color-scheme:dark" in svg
    (style,) = (each.text for each in parsed(svg).iter(f"{SVG}style"))
    styled = set(re.findall(r"\.([\w-]+)\{", style))
    used = {name for each in parsed(svg).iter() for name in each.get("class", "").split()}
    assert used <= styled
    for each in parsed(svg).iter():
        if each.get("class"):
            assert each.get("fill")


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:12]))
def test_no_name_drives_the_page(name: str) -> None:
    """Names are text, cut if they are long; a document with them is whole."""
    drawn = draw(graph_of([name, "other"], [(name, "other"), ("other", name), (name, name)]))
    tags = {each.tag.removeprefix(SVG) for each in parsed(drawn.svg).iter()}
    assert tags <= {"svg", "style", "rect", "g", "title", "text", "path", "polygon"}
    assert all(len(each) <= 29 for each in names_in(drawn.svg))
    for text in (drawn.svg, repr(drawn)):
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    assert len(repr(drawn).splitlines()) == 3


@pytest.mark.slow
@settings(max_examples=25)
@given(NAMES, st.data())
def test_nodes_never_overlap(names: list[str], data: st.DataObject) -> None:
    """Of any graph, with circles, loops and parts that nothing leads to."""
    ends = st.tuples(st.sampled_from(names), st.sampled_from(names))
    edges = data.draw(st.lists(ends, max_size=20))
    parsed(draw(graph_of(names, edges)).svg)
    layout = lay_out(dict.fromkeys(names, 60.0), edges, height=30)
    boxes = list(layout.boxes.values())
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    for box in boxes:
        assert 0 <= box.left <= box.left + box.width <= layout.width + 1e-6
        assert 0 <= box.top <= box.bottom <= layout.height + 1e-6
    assert all(len(path) >= 2 for path in layout.paths)


def test_a_chain_is_read_from_top_to_bottom() -> None:
    """Each node is below the one before it, and in a line with it."""
    names = ["a", "b", "c", "d"]
    layout = lay_out(dict.fromkeys(names, 50.0), list(pairwise(names)), height=30)
    boxes = [layout.boxes[each] for each in names]
    assert all(a.bottom < b.top and a.middle == b.middle for a, b in pairwise(boxes))


def test_the_frame_of_a_group_has_its_nodes_and_no_other() -> None:
    """A node beside a group is moved aside."""
    edges = [("in", "g:a"), ("in", "x"), ("g:a", "g:b"), ("g:a", "g:c"), ("x", "out")]
    edges += [("g:b", "out"), ("g:c", "out")]
    layout = lay_out(dict.fromkeys(["in", "g:a", "g:b", "g:c", "x", "out"], 80.0), edges, height=30)
    frame = layout.groups["g"]
    assert {name for name, box in layout.boxes.items() if box.overlaps(frame)} == {
        "g:a",
        "g:b",
        "g:c",
    }


def test_what_cannot_be_drawn_says_so() -> None:
    """Something else than a graph, and a graph that nobody could read."""
    with pytest.raises(TypeError, match=r"graph: pass a compiled graph.*not str"):
        draw("graph")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it has 301 nodes, and at most 300"):
        draw(graph_of(map(str, range(301)), []))
    names = list(map(str, range(40)))
    with pytest.raises(ValueError, match="it has 1,600 edges, and at most 1,000"):
        draw(graph_of(names, [(source, target) for source in names for target in names]))
    large = graph_of(map(str, range(300)), [(str(n), str(n * 7 % 300)) for n in range(300)])
    assert len(draw(large).svg) < 400_000
