"""What all tables are made of: their metadata and the kinds of columns they have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Integer, MetaData, Text
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import TIMESTAMP

SCHEMA = "llmteam"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={"pk": "%(table_name)s_pkey", "ck": "%(table_name)s_%(constraint_name)s"},
)


def text(name: str, *, null: bool = False, default: str | None = None) -> Column[str]:
    """A text."""
    return Column(name, Text, nullable=null, server_default=None if default is None else sql_text(f"'{default}'"))


def integer(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    """A whole number of 32 bits."""
    return Column(name, Integer, nullable=null, server_default=None if default is None else sql_text(str(default)))


def flag(name: str) -> Column[bool]:
    """True or false, false by default."""
    return Column(name, Boolean, nullable=False, server_default=sql_text("false"))


def json(name: str, *, null: bool = True) -> Column[Any]:
    """A document; ``json``, not ``jsonb``: it is read whole and written often, and its key order is kept."""
    return Column(name, JSON(none_as_null=True), nullable=null)


def time(name: str, *, null: bool = True) -> Column[Any]:
    """A moment."""
    return Column(name, TIMESTAMP(timezone=True), nullable=null)
