"""Emptying the database of a test for the next one: making and dropping one costs ten times as much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    import psycopg2.extensions

#: What no test may leave changed: tables, columns, rights, row security, functions, triggers, settings. Rows of
#: statistics count, and whether a table was counted, for with them queries may be planned otherwise.
_SHAPE = """
    SELECT sum(hashtextextended(line, 0)) FROM (
        SELECT (oid, relname, relowner, relacl, relrowsecurity, relforcerowsecurity, reloptions, relnatts,
                relkind = 'r' AND reltuples >= 0)::text AS line
          FROM pg_class WHERE oid >= 16384
        UNION ALL SELECT (attrelid, attnum, attname, atttypid, attnotnull, atthasdef, attidentity, attacl)::text
          FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0
        UNION ALL SELECT one::text FROM pg_proc AS one WHERE oid >= 16384
        UNION ALL SELECT one::text FROM pg_trigger AS one WHERE oid >= 16384
        UNION ALL SELECT one::text FROM pg_policy AS one
        UNION ALL SELECT one::text FROM pg_constraint AS one WHERE oid >= 16384
        UNION ALL SELECT one::text FROM pg_index AS one WHERE indexrelid >= 16384
        UNION ALL SELECT one::text FROM pg_attrdef AS one WHERE oid >= 16384
        UNION ALL SELECT one::text FROM pg_namespace AS one WHERE nspname NOT LIKE 'pg_t%'
        UNION ALL SELECT one::text FROM pg_extension AS one
        UNION ALL SELECT one::text FROM pg_default_acl AS one
        UNION ALL SELECT (starelid, staattnum)::text FROM pg_statistic WHERE starelid >= 16384
        UNION ALL SELECT (setrole, setconfig)::text
          FROM pg_db_role_setting JOIN pg_database ON setdatabase = pg_database.oid AND datname = current_database()
    ) AS lines
"""
_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
#: Tables that were filled enough to be slower, or to be planned for otherwise, than new ones.
_LARGE = """
    SELECT count(*) FROM pg_class
     WHERE oid >= 16384 AND relkind IN ('r', 't') AND pg_relation_size(oid) > 32 * 8192
"""
#: Without triggers: those of the audit trail let nobody delete.
_EMPTY = """
    SET session_replication_role = replica;
    DO $$
    DECLARE one regclass;
    BEGIN
        FOR one IN SELECT oid FROM pg_class WHERE oid >= 16384 AND relkind = 'r' AND relname <> 'alembic_version' LOOP
            EXECUTE format('DELETE FROM %s', one);
        END LOOP;
        PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE oid >= 16384 AND relkind = 'S';
    END $$;
"""


def shape_of(url: str) -> str:
    """What a database looks like apart from its rows; ``url`` is that of a superuser."""
    with _cursor(url) as cursor:
        return _one(cursor, _SHAPE)


def emptied(url: str, shape: str) -> bool:
    """Whether the database has no rows now and is otherwise as ``shape`` says; if not, it is for nobody else.

    Sessions that somebody left open may have plans for it, so that it is not for others either.
    """
    with _cursor(url) as cursor:
        try:
            wait_until(lambda: _one(cursor, _OTHERS) == "0", "sessions that are ending", timeout=1.0)
        except AssertionError:
            return False
        if _one(cursor, _LARGE) != "0":
            return False
        cursor.execute(_EMPTY)
        return _one(cursor, _SHAPE) == shape


def _one(cursor: psycopg2.extensions.cursor, query: str) -> str:
    cursor.execute(query)
    (row,) = cursor.fetchall()
    return str(row[0])


@contextmanager
def _cursor(url: str) -> Iterator[psycopg2.extensions.cursor]:
    import psycopg2

    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    try:
        connection.autocommit = True
        yield connection.cursor()
    finally:
        connection.close()
