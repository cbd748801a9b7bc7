"""The database: pool and transactions, tables, migrations, roles. SQL stands here and in the ``postgres`` modules."""

from llmteam.db.clock import DatabaseClock
from llmteam.db.engine import Database
from llmteam.db.errors import (
    ConflictError,
    ConstraintError,
    DatabaseTimeoutError,
    PoolerError,
    RefusedError,
    RolesNotGrantedError,
    StatementError,
    constraint_of,
    run_transaction,
)
from llmteam.db.hot import HotConnection, Prepared
from llmteam.db.roles import InsecureLoginError, OwnerRisk, check_login, owner_risk, provision, roles_sql

__all__ = [
    "ConflictError",
    "ConstraintError",
    "Database",
    "DatabaseClock",
    "DatabaseTimeoutError",
    "HotConnection",
    "InsecureLoginError",
    "OwnerRisk",
    "PoolerError",
    "Prepared",
    "RefusedError",
    "RolesNotGrantedError",
    "StatementError",
    "check_login",
    "constraint_of",
    "owner_risk",
    "provision",
    "roles_sql",
    "run_transaction",
]
