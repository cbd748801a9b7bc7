from __future__ import annotations

from llmteam.canvas.models import EdgeDefinition, SegmentDefinition, StepDefinition
from llmteam.cli import graphs
from tests.teams import segment as teamed
from tests.teams import step, team


def segment(*edges: tuple[str, str] | tuple[str, str, str], **names: str) -> SegmentDefinition:
    ids = dict.fromkeys(step for edge in edges for step in edge[:2])
    return SegmentDefinition(
        segment_id="drawn",
        name="drawn",
        steps=[StepDefinition(step_id=step, step_type="transform", name=names.get(step, "")) for step in ids],
        edges=[
            EdgeDefinition(source_step=edge[0], target_step=edge[1], condition=edge[2] if len(edge) > 2 else None)
            for edge in edges
        ],
    )


def test_text_lists_steps_after_those_that_lead_to_them() -> None:
    drawn = graphs.text(segment(("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")))

    assert [line.split()[0] for line in drawn.splitlines()[3:] if not line.startswith(" ")] == ["a", "b", "c", "d"]


def test_text_shows_conditions_and_marks_edges_that_go_back() -> None:
    drawn = graphs.text(segment(("a", "b"), ("b", "c", "n > 3"), ("c", "b")))

    assert "  [if n > 3] → c\n" in drawn
    assert "  → b  (back)\n" in drawn


def test_a_step_that_leads_to_itself_is_drawn_once() -> None:
    drawn = graphs.text(segment(("a", "a")))

    assert drawn.count("a (transform)") == 1


def test_mermaid_keeps_ids_apart_from_its_own_words() -> None:
    drawn = graphs.mermaid(segment(("start", "end")))

    assert drawn.startswith("flowchart TD\n")
    assert "    s_start --> s_end\n" in drawn


def test_mermaid_escapes_what_would_end_a_label() -> None:
    drawn = graphs.mermaid(segment(("a", "b", 'x == "1" | y < 2'), a='the "first"\n<b>'))

    assert 's_a["the #quot;first#quot; #lt;b#gt;<br/>' in drawn
    assert '|"if x == #quot;1#quot; #124; y #lt; 2"|' in drawn


def test_agents_of_a_team_are_drawn_between_edges_to_it_and_back() -> None:
    drawn = teamed(team(["a", "b"]), step("after"), edges=["team -> after"])

    assert "    s_team --> s_team__a\n    s_team__a --> s_team\n" in graphs.mermaid(drawn)
    assert "team__b (work)  b\n  → team  (back)\n" in graphs.text(drawn)


def test_edges_that_lead_nowhere_are_left_out() -> None:
    broken = segment(("a", "b"))
    broken.edges.append(EdgeDefinition(source_step="a", target_step="nobody"))

    assert "nobody" not in graphs.mermaid(broken)
    assert "→ nobody" in graphs.text(broken)
