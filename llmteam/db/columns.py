"""What every module of tables is made of: the schema, its metadata and the kinds of columns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Integer, MetaData, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

SCHEMA = "llmteam"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={"pk": "%(table_name)s_pkey", "ck": "%(table_name)s_%(constraint_name)s"},
)


def string(name: str, *, null: bool = False, default: str | None = None) -> Column[str]:
    """Text."""
    return Column(name, Text, nullable=null, server_default=None if default is None else text(f"'{default}'"))


def integer(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    """A whole number."""
    return Column(name, Integer, nullable=null, server_default=None if default is None else text(str(default)))


def flag(name: str) -> Column[bool]:
    """True or false; false by default."""
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def json_column(name: str, *, null: bool = True) -> Column[Any]:
    """A document; None is SQL's NULL."""
    return Column(name, JSON(none_as_null=True), nullable=null)


def moment(name: str, *, null: bool = True) -> Column[Any]:
    """A moment with its time zone."""
    return Column(name, TIMESTAMP(timezone=True), nullable=null)
