"""A report as one HTML page: pictures and tables, light and dark, nothing loaded from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape

from llmteam.mining.measures import Mean
from llmteam.mining.pictures import bars, process_map
from llmteam.mining.report import Conformance, Report, SegmentReport, Variant
from llmteam.mining.waits import Cause
from llmteam.mining.xes import printable_text

#: Rows of the tables of activities and of variants.
_ROWS = 40

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#57606a;--line:#b5bcc4;--box:#eef3f8;--edge:#4d6a88;
--work:#2a6fb8;--human:#b3492c;--queue:#8a6d00;--limit:#7b4bb0;--retry:#a8326f;--lost:#545b63;--pause:#6f7a2a;
--admission:#1a7f6b}
@media(prefers-color-scheme:dark){:root{--back:#14181d;--text:#e6e9ed;--soft:#a9b2bc;--line:#4a535d;--box:#222a33;
--edge:#8fb0d2;--work:#6aaaf0;--human:#f08d6e;--queue:#dcb93c;--limit:#bd95ee;--retry:#ee86b7;--lost:#a4acb5;
--pause:#b6c464;--admission:#55c9b2}}
body{background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;
padding:1rem 1.25rem 4rem}
h2{border-top:1px solid var(--line);margin-top:2.5rem;padding-top:1rem;overflow-wrap:anywhere}
p.note,caption{color:var(--soft)}caption{text-align:left}
.wide{overflow-x:auto}.wide:focus-visible{outline:3px solid var(--edge)}
table{border-collapse:collapse;margin:.5rem 0}th,td{border-bottom:1px solid var(--line);padding:.25rem .9rem .25rem 0;
text-align:left;vertical-align:top;overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap}
svg{display:block;max-width:none}svg text{fill:var(--text);font:12px system-ui,sans-serif;text-anchor:middle}
svg text.row{text-anchor:end}svg .count,svg .times{fill:var(--soft)}
svg text.times{paint-order:stroke;stroke:var(--back);stroke-width:4px}
.box{fill:var(--box);stroke:var(--edge)}.edge{fill:none;stroke:var(--edge)}.arrow{fill:var(--edge)}
ul.key{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;padding:0}
ul.key span{display:inline-block;height:.8em;margin-right:.4em;width:.8em}
""" + "".join(f".c-{cause.value}{{fill:var(--{cause.value});background:var(--{cause.value})}}" for cause in Cause)

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Process mining report</title>
<style>{style}</style>
</head>
<body>
<main>
"""


def page(report: Report, *, tenant: str, made_at: datetime) -> str:
    """The whole page."""
    return "".join(_parts(report, tenant, made_at))


def _parts(report: Report, tenant: str, made_at: datetime) -> Iterator[str]:
    yield _HEAD.replace("{style}", _STYLE)
    runs = sum(one.runs for one in report.segments.values())
    yield "<h1>Process mining report</h1>\n"
    yield f"<p>Tenant {_text(tenant)}; runs: {runs:,}; segments: {len(report.segments):,}; made at "
    yield f'<time datetime="{made_at.isoformat()}">{made_at:%Y-%m-%d %H:%M} UTC</time>.</p>\n'
    if not report.segments:
        yield "<p>No run was started in this period.</p>\n"
    for number, segment in enumerate(report.ordered()):
        yield from _segment(segment, f"s{number}")
    yield "</main>\n</body>\n</html>\n"


def _segment(segment: SegmentReport, ident: str) -> Iterator[str]:
    metrics = segment.measures.metrics()
    yield f'<section aria-labelledby="{ident}">\n<h2 id="{ident}">{_text(segment.segment_id)}</h2>\n'
    yield _table(
        "Runs",
        ("measure", "value"),
        [
            ("runs", f"{segment.runs:,}"),
            *((status, f"{many:,}") for status, many in sorted(segment.statuses.items())),
            ("shortest", seconds_text(metrics.min_duration.total_seconds())),
            ("on average", seconds_text(metrics.avg_duration.total_seconds())),
            ("longest", seconds_text(metrics.max_duration.total_seconds())),
            ("runs per hour", f"{metrics.cases_per_hour:,.1f}"),
            ("events that tell of an error", f"{metrics.error_rate:.1%}"),
            ("events that tell of a retry", f"{metrics.retry_rate:.1%}"),
        ],
    )
    yield from _map(segment, ident)
    yield from _time(segment, ident)
    yield "<h3>Variants</h3>\n"
    yield _variants(segment)
    yield "<h3>Conformance</h3>\n"
    yield _conformance(segment.conformance)
    yield "</section>\n"


def _map(segment: SegmentReport, ident: str) -> Iterator[str]:
    drawn = process_map(_clean(segment.steps), _clean_edges(segment.edges), f"{ident}-map")
    yield "<h3>Process map</h3>\n"
    yield f'<div class="wide" tabindex="0" role="group" aria-label="Process map of {_text(segment.segment_id)}">\n'
    yield f"{drawn.svg}\n</div>\n"
    if drawn.left_out:
        yield f'<p class="note">{drawn.left_out:,} rare steps and ways are left out.</p>\n'


def _time(segment: SegmentReport, ident: str) -> Iterator[str]:
    worst = segment.waits.slowest()[:_ROWS]
    spent = segment.waits.spent
    rows = [
        (printable_text(name), {cause: spent[name][cause].seconds for cause in Cause if cause in spent[name]})
        for name, _, _ in worst
    ]
    yield "<h3>Where the time went</h3>\n"
    yield '<ul class="key">'
    yield "".join(f'<li><span class="c-{one.value}"></span>{one.value}: {one.says}</li>' for one in Cause)
    yield "</ul>\n"
    yield f'<div class="wide" tabindex="0" role="group" aria-label="Time by activity of {_text(segment.segment_id)}">\n'
    yield f"{bars(rows, f'{ident}-bars')}\n</div>\n"
    yield _table(
        "The longest first; branches side by side count each for itself",
        ("activity", "cause", "times", "together", "on average", "longest"),
        [
            (
                name,
                cause.value,
                f"{one.times:,}",
                *map(seconds_text, (one.seconds, one.seconds / one.times, one.longest)),
            )
            for name, _, _ in worst
            for cause, one in sorted(spent[name].items(), key=lambda each: -each[1].seconds)
        ],
    )


def _variants(segment: SegmentReport) -> str:
    rows = [
        (way_text(one), one.status, f"{one.runs:,}", mean_text(one.seconds), one.example)
        for one in segment.common()[:_ROWS]
    ]
    rest = segment.runs - sum(one.runs for one in segment.common()[:_ROWS])
    note = f'<p class="note">{rest:,} runs went other ways.</p>\n' if rest else ""
    return _table("Ways through the segment", ("steps", "ended", "runs", "on average", "for example"), rows) + note


def _conformance(found: Conformance) -> str:
    if not found.checked:
        return "<p>The definitions of these runs are not there.</p>\n"
    said = (
        f"<p>{found.fitting:,} of {found.checked:,} runs did what their definition allows; "
        f"fitness {found.fitness.value:.4f}.</p>\n"
    )
    rows = [
        (
            one.run_id,
            f"{one.fitness:.3f}",
            "start to end" if each.seq is None else f"event {each.seq:,}",
            each.step_id,
            each.what,
        )
        for one in found.deviating
        for each in one.deviations
    ]
    return said + (_table("What deviates", ("run", "fitness", "where", "step", "what"), rows) if rows else "")


def way_text(variant: Variant) -> str:
    """The steps of a variant in a line."""
    more = f" → … {variant.more:,} more" if variant.more else ""
    return (" → ".join(variant.steps) or "no step completed") + more


def mean_text(seconds: Mean) -> str:
    """A mean length of time in a person's units; nothing of nothing."""
    return seconds_text(seconds.value) if seconds.count else ""


def seconds_text(seconds: float) -> str:
    """A length of time in a person's units."""
    if seconds < 1:
        return f"{seconds * 1000:,.0f} ms"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    minutes = seconds / 60
    return f"{minutes:,.1f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(one)}</th>' for one in heads)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>' + "".join(f"<td>{_text(one)}</td>" for one in row[1:]) + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{_text(caption)}">\n<table>\n'
        f"<caption>{_text(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _text(words: str) -> str:
    return escape(printable_text(words))


def _clean(steps: dict[str, int]) -> dict[str, int]:
    return {printable_text(name): times for name, times in steps.items()}


def _clean_edges(edges: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    return {(printable_text(a), printable_text(b)): times for (a, b), times in edges.items()}
