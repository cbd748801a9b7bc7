"""A compiled graph as the net that process mining replays runs on."""

from __future__ import annotations

from llmteam.canvas.graph import Graph
from llmteam.mining.replay import Net, NetEdge, NetStep

__all__ = ["net_of"]


def net_of(graph: Graph) -> Net:
    """The net of ``graph``: its edges under the same numbers."""
    quiet = {step_id for join, region in graph.regions.items() if graph.nodes[join].fires_early for step_id in region}
    steps = {}
    for step_id in (*graph.order, *graph.unreachable):
        node, loop = graph.nodes[step_id], graph.loops.get(step_id)
        steps[step_id] = NetStep(
            step_id,
            ins=tuple(edge.index for edge in node.ins),
            outs=tuple(edge.index for edge in node.outs),
            early=node.fires_early,
            quiet=step_id in quiet,
            reachable=node.reachable,
            body=frozenset() if loop is None else loop.body,
        )
    edges = tuple(NetEdge(edge.source, edge.target, edge.back) for edge in graph.edges)
    return Net(graph.entry, steps, edges)
