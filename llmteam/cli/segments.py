"""``llmteam segment`` and ``llmteam catalog``: definitions, published ones, and the step types that they use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from llmteam.cli import codes, documents
from llmteam.cli.options import import_modules, imports_option, json_option, load_settings, tenant_option
from llmteam.cli.render import pairs, print_json, table, warn
from llmteam.cli.servers import installation
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from llmteam.canvas.models import SegmentDefinition
    from llmteam.canvas.registry import SegmentRegistry, SegmentVersion


@click.group()
def segment() -> None:
    """Segments: check, draw, publish."""


@segment.command()
@click.argument("source", metavar="FILE")
@imports_option
@click.option("--lenient", is_flag=True, help="An unknown step type is a warning, as workers may know it.")
@json_option
def validate(source: str, imports: tuple[str, ...], lenient: bool, as_json: bool) -> None:
    """List every problem of a segment with its place and, where there is one, a suggestion; exit code 2 if invalid."""
    from llmteam.canvas.exceptions import SegmentSyntaxError
    from llmteam.canvas.validation import SegmentValidator, ValidationResult

    import_modules(load_settings(imports))
    try:
        result = SegmentValidator().validate_dict(documents.read_document(source), strict=not lenient)
    except SegmentSyntaxError as exc:
        result = ValidationResult()
        result.add_error("NOT_JSON", str(exc))
    if as_json:
        print_json(result.to_dict())
    else:
        documents.report_problems(result, source, err=False)
    sys.exit(codes.DONE if result.is_valid else codes.USAGE)


@segment.command()
@imports_option
def schema(imports: tuple[str, ...]) -> None:
    """Write the JSON Schema of segment documents, with the configuration of every step type, for editors."""
    from llmteam.canvas.catalog import StepCatalog

    import_modules(load_settings(imports))
    print_json(StepCatalog.get_instance().segment_schema())


@segment.command()
@click.argument("source", metavar="FILE|ID[@VERSION]")
@click.option("--format", "style", type=click.Choice(["mermaid", "text"]), default="text", show_default=True)
@tenant_option
def graph(source: str, style: str, tenant: str) -> None:
    """Draw a segment, as text or as a Mermaid flowchart."""
    from llmteam.cli import graphs

    definition = _definition(source, tenant)
    drawn = graphs.mermaid(definition) if style == "mermaid" else graphs.text(definition)
    click.echo("\n".join(printable(line) for line in drawn.splitlines()))


@segment.command()
@click.argument("source", metavar="FILE")
@tenant_option
@click.option("--by", "published_by", default="", metavar="NAME", help="Who publishes, for the record.")
@imports_option
@json_option
def publish(source: str, tenant: str, published_by: str, imports: tuple[str, ...], as_json: bool) -> None:
    """Publish a segment under its id and version, which never change afterwards. The same content again is fine."""
    from llmteam.canvas.validation import validate_segment_dict

    import_modules(load_settings(imports))
    document = documents.read_document(source)
    result = validate_segment_dict(document)
    if not result.is_valid:
        documents.report_problems(result, source, err=True)
        sys.exit(codes.USAGE)
    for message in result.warnings:
        warn(printable(str(message)))
    definition = _parsed(document)
    with _registry() as registry:
        version = registry.put(tenant, definition, published_by)
    if as_json:
        print_json(version.to_dict())
    else:
        click.echo(f"published {version.reference} ({version.content_hash[:12]}): llmteam run {version.reference}")


@segment.command(name="list")
@click.argument("segment_id", metavar="[ID]", required=False)
@tenant_option
@click.option("--archived", is_flag=True, help="Archived versions too.")
@json_option
def list_segments(segment_id: str | None, tenant: str, archived: bool, as_json: bool) -> None:
    """List published versions, newest first."""
    with _registry() as registry:
        found = registry.versions(tenant, segment_id, archived=archived)
    if as_json:
        print_json([version.to_dict() for version in found])
        return
    rows = [[one.reference, one.published_at, one.published_by, one.content_hash[:12], _state(one)] for one in found]
    headings = ["SEGMENT", "PUBLISHED", "BY", "CONTENT", "STATE"]
    table(headings, rows, f"nothing is published in tenant {tenant}: llmteam segment publish FILE")


@segment.command()
@click.argument("reference", metavar="ID[@VERSION]")
@tenant_option
@json_option
def show(reference: str, tenant: str, as_json: bool) -> None:
    """Write a published segment's document; with --json, what is known about the version around it."""
    from llmteam.canvas.exceptions import UnknownSegmentError
    from llmteam.canvas.registry import parse_reference

    with _registry() as registry:
        found = registry.find(tenant, *parse_reference(reference))
    if found is None:
        raise UnknownSegmentError(*parse_reference(reference))
    document = found.definition.to_dict()
    print_json({**found.version.to_dict(), "document": document} if as_json else document)


@segment.command()
@click.argument("reference", metavar="ID@VERSION")
@tenant_option
@json_option
def archive(reference: str, tenant: str, as_json: bool) -> None:
    """Have a version start no new runs; its runs go on. Publishing the same content again brings it back."""
    from llmteam.canvas.exceptions import UnknownSegmentError
    from llmteam.canvas.registry import parse_reference

    segment_id, version = parse_reference(reference)
    if version is None:
        raise click.UsageError(f"say which version: {segment_id}@VERSION (`llmteam segment list {segment_id}`)")
    with _registry() as registry:
        found = registry.retire(tenant, segment_id, version)
    if found is None:
        raise UnknownSegmentError(segment_id, version)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(f"archived {found.reference}")


@click.command(short_help="List the step types, or show one.")
@click.argument("type_id", metavar="[TYPE]", required=False)
@imports_option
@json_option
def catalog(type_id: str | None, imports: tuple[str, ...], as_json: bool) -> None:
    """List the step types, or show one with its ports and the schema of its configuration."""
    from llmteam.canvas.catalog import StepCatalog
    from llmteam.canvas.exceptions import StepTypeNotFoundError

    import_modules(load_settings(imports))
    known = StepCatalog.get_instance()
    if type_id is None:
        if as_json:
            print_json(known.export_for_ui())
        else:
            rows = [
                [one.type_id, one.category.value, _queue(one.type_id), one.description] for one in known.list_types()
            ]
            table(["TYPE", "CATEGORY", "QUEUE", "DESCRIPTION"], rows, "no step types")
        return
    metadata = known.get_type(type_id)
    if metadata is None:
        raise StepTypeNotFoundError(type_id)
    document = metadata.to_dict()
    if as_json:
        print_json(document)
        return
    pairs(
        {
            "type": metadata.type_id,
            "name": metadata.display_name,
            "category": metadata.category.value,
            "queue": _queue(type_id),
            "inputs": ", ".join(port.name for port in metadata.input_ports),
            "outputs": ", ".join(port.name for port in metadata.output_ports),
            "about": metadata.description,
        }
    )
    click.echo(click.style("configuration", bold=True))
    print_json(metadata.config_schema)


def _queue(type_id: str) -> str:
    from llmteam.canvas.catalog import StepCatalog

    facts = StepCatalog.get_instance().facts(type_id)
    return "" if facts is None else facts.queue


def _state(version: SegmentVersion) -> str:
    return "archived" if version.archived_at is not None else ""


def _definition(source: str, tenant: str) -> SegmentDefinition:
    """What ``source`` names: a file or a published segment."""
    if documents.is_file(source):
        return _parsed(documents.read_document(source))
    from llmteam.canvas.registry import parse_reference

    with _registry() as registry:
        return registry.fetch(tenant, *parse_reference(source)).definition


def _parsed(document: Any) -> SegmentDefinition:
    from llmteam.canvas.models import SegmentDefinition

    return SegmentDefinition.from_dict(document)


@contextmanager
def _registry() -> Iterator[SegmentRegistry]:
    from llmteam.canvas.registry.postgres import PostgresSegmentRegistry

    with installation(load_settings()) as place:
        database = place.database()
        try:
            yield PostgresSegmentRegistry(database)
        finally:
            database.close()
