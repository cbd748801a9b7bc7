"""Nothing of the package stands behind a licence, and what keeps tenants safe least of all."""

from __future__ import annotations

import ast
from pathlib import Path

import llmteam

PACKAGE = Path(llmteam.__file__).parent


def imports_licences(path: Path) -> bool:
    """Whether a module imports the package of licences."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return any(name == "llmteam.licensing" or name.startswith("llmteam.licensing.") for name in names)


#: They ask how many of something a licence allows, and refuse with the error for that.
COUNTING = {"execution/executor.py", "persistence/postgres.py", "persistence/stores.py"}
#: The operator's commands about licences, and the one whose feature a licence can give.
COMMANDS = {"cli/license.py", "cli/mining.py"}


def test_no_other_package_asks_for_a_licence_but_for_its_numbers() -> None:
    using = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if imports_licences(path)}

    outside = {name for name in using if not name.startswith("licensing/")}
    assert outside == {"__init__.py"} | COMMANDS | COUNTING
