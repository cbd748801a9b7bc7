"""Contexts above and below each other: whoever is above sees below, as far as it may; nobody sees sideways or up."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from llmteam.context.exceptions import ContextAccessError, InvalidContextError
from llmteam.context.policy import ROLE_SYSTEM, SCOPE_OF_ROLE, Ancestor, ContextScope
from llmteam.context.propagation import ContextPropagationConfig, aggregate, check_value
from llmteam.context.secure import SecureAgentContext
from llmteam.ids import check_identifier, utc_now

#: Levels that a hierarchy may have.
MAX_LEVELS = 16
_RANK = {ContextScope.AGENT: 0, ContextScope.PIPELINE: 1, ContextScope.GROUP: 2}
#: Fields that an agent's secure context has itself.
_OF_SECURE = ("status", "confidence", "error_count")
_MISSING = object()

Inherit = Literal["configured", "all"]


class HierarchicalContext:
    """One place in a hierarchy: an agent, its pipeline, or a group of pipelines.

    ``data`` is its own; ``aggregated`` what its children gave, apart from it. ``secure_context`` is the agent's own
    context, whose policy decides what is seen of it. Names that begin with an underscore, and sealed ones, are never
    inherited and never move. Raises :class:`InvalidContextError`, :class:`InvalidIdentifierError`.
    """

    def __init__(
        self,
        context_id: str,
        scope: ContextScope,
        *,
        data: Mapping[str, Any] | None = None,
        secure_context: SecureAgentContext | None = None,
    ) -> None:
        self.context_id = check_identifier("context_id", context_id)
        self.scope = ContextScope(scope)
        self.data: dict[str, Any] = dict(data or {})
        self.aggregated: dict[str, Any] = {}
        self.children: dict[str, HierarchicalContext] = {}
        self.created_at: datetime = utc_now()
        self.updated_at: datetime = self.created_at
        self.access_count = 0
        self._parent: HierarchicalContext | None = None
        self._contributions: dict[str, dict[str, Any]] = {}
        self._config = ContextPropagationConfig()
        self._inherited: frozenset[str] | None = frozenset()
        self._secure: SecureAgentContext | None = None
        self.secure_context = secure_context

    def __repr__(self) -> str:
        return f"HierarchicalContext(path={self.path!r}, scope={self.scope.value!r}, children={len(self.children)})"

    @property
    def secure_context(self) -> SecureAgentContext | None:
        """The agent's own context, if it has one."""
        return self._secure

    @secure_context.setter
    def secure_context(self, context: SecureAgentContext | None) -> None:
        if context is not None:
            context._ancestors = self.ancestors
        self._secure = context

    @property
    def parent(self) -> HierarchicalContext | None:
        return self._parent

    @property
    def parent_id(self) -> str | None:
        return None if self._parent is None else self._parent.context_id

    @property
    def path(self) -> str:
        """The ids from the root to this context with slashes between them; a slash inside an id is written ``%2F``."""
        ids = [*(one.context_id for one in reversed(list(self._above()))), self.context_id]
        return "/".join(one.replace("/", "%2F") for one in ids)

    def ancestors(self) -> tuple[Ancestor, ...]:
        """What stands above, nearest first."""
        return tuple(Ancestor(one.context_id, one.scope) for one in self._above())

    def _above(self) -> Iterator[HierarchicalContext]:
        above = self._parent
        while above is not None:
            yield above
            above = above._parent

    def get(self, key: str, default: Any = None) -> Any:
        """A copy of what this context has under ``key``: its own, else what it inherits from the nearest above it."""
        if key in self.data:
            return copy.deepcopy(self.data[key])
        inherits = self._inherited is None or key in self._inherited
        if self._parent is None or not inherits or self._hides(key):
            return default
        return default if self._parent._hides(key) else self._parent.get(key, default)

    def _hides(self, key: str) -> bool:
        """Whether ``key`` never leaves this context."""
        sealed = self._secure is not None and key in self._secure.sealed_names
        return sealed or key.startswith("_")

    # -- children

    def get_child_context(self, child_id: str) -> HierarchicalContext | None:
        return self.children.get(child_id)

    def set_child_context(self, child_id: str, context: HierarchicalContext) -> None:
        """Put a context below this one.

        Raises :class:`InvalidContextError` for another id than its own, a second one of the same id, one that stands
        somewhere already, a cycle, a scope that is not narrower (pipelines may stand in pipelines), too many levels.
        """
        self._check_child(child_id, context)
        context._parent = self
        self.children[child_id] = context
        self.updated_at = utc_now()

    def _check_child(self, child_id: str, context: HierarchicalContext) -> None:
        if child_id != context.context_id:
            raise InvalidContextError(f"the context '{context.context_id}' cannot stand under the id '{child_id[:80]}'")
        if self.children.get(child_id, context) is not context:
            raise InvalidContextError(f"'{self.path}' has a child '{child_id}' already")
        if context._parent not in (None, self):
            raise InvalidContextError(f"'{context.path}' stands somewhere already: remove it there first")
        if context is self or context in self._above():
            raise InvalidContextError(f"'{child_id}' cannot stand below itself")
        nested = self.scope is context.scope is ContextScope.PIPELINE
        if _RANK[context.scope] >= _RANK[self.scope] and not nested:
            raise InvalidContextError(
                f"a context of scope '{context.scope.value}' cannot stand below one of scope '{self.scope.value}'"
            )
        if len(self.ancestors()) + 1 + context._height() > MAX_LEVELS:
            raise InvalidContextError(f"'{self.path}': a hierarchy has at most {MAX_LEVELS} levels")

    def _height(self) -> int:
        return 1 + max((child._height() for child in self.children.values()), default=0)

    def remove_child_context(self, child_id: str) -> None:
        """Take a context out, with its share of what was aggregated; an unknown id is ignored."""
        child = self.children.pop(child_id, None)
        if child is not None:
            child._parent = None
            self._contributions.pop(child_id, None)
            self.aggregated = aggregate(self._config, list(self._contributions.values()))
            self.updated_at = utc_now()

    def get_visible_children(self, viewer_id: str, viewer_role: str) -> dict[str, dict[str, Any]]:
        """What this viewer sees of each child: the agent's view as its policy decides, else a summary.

        For this context's own orchestrator, those above it, and the system; raises :class:`ContextAccessError` for
        everybody else.
        """
        allowed = (Ancestor(self.context_id, self.scope), *self.ancestors())
        scope = SCOPE_OF_ROLE.get(viewer_role)
        if viewer_role != ROLE_SYSTEM and (scope is None or Ancestor(viewer_id, scope) not in allowed):
            raise ContextAccessError(f"'{viewer_id[:80]}' is not an orchestrator of '{self.path}'", viewer_id)
        self.access_count += 1
        return {
            child_id: child.get_summary()
            if child.secure_context is None
            else child.secure_context.get_visible_context(viewer_id, viewer_role)
            for child_id, child in self.children.items()
        }

    # -- what moves

    def _offers(self, field: str) -> Any:
        """What this context says of a field to the one above it."""
        if self._hides(field):
            return _MISSING
        if field in self.data:
            return self.data[field]
        if self._secure is not None and field in _OF_SECURE:
            return getattr(self._secure, field)
        return self.aggregated.get(field, _MISSING)

    def _take(self, config: ContextPropagationConfig, child: HierarchicalContext) -> None:
        """Let a child's contribution take the place of its last one, and aggregate anew. All or nothing."""
        given = {name: child._offers(name) for name in config.propagate_up if not self._hides(name)}
        given = {name: copy.deepcopy(value) for name, value in given.items() if value is not _MISSING}
        for name, value in given.items():
            check_value(name, config.get_aggregation_rule(name), value)
        # Last in the order, for the rule `last`.
        contributions = {key: one for key, one in self._contributions.items() if key != child.context_id}
        contributions[child.context_id] = given
        self.aggregated = aggregate(config, list(contributions.values()))
        self._contributions, self._config = contributions, config
        self.updated_at = utc_now()

    def _hand_down(self, config: ContextPropagationConfig, child: HierarchicalContext) -> None:
        for name in config.propagate_down:
            value = self.get(name, _MISSING)
            if value is not _MISSING and not self._hides(name) and not child._hides(name):
                child.data[name] = value
                child.updated_at = utc_now()

    # -- as values

    def get_summary(self) -> dict[str, Any]:
        """What may be told of it to whoever is above: nothing that it holds."""
        return {
            "scope": self.scope.value,
            "context_id": self.context_id,
            "children_count": len(self.children),
            "updated_at": self.updated_at.isoformat(),
            "access_count": self.access_count,
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary with what it holds itself, sealed names left out; no children."""
        covered = copy.deepcopy(self.data) if self._secure is None else self._secure.covered(self.data)
        return {
            **self.get_summary(),
            "parent_id": self.parent_id,
            "data": covered,
            "aggregated": copy.deepcopy(self.aggregated),
            "created_at": self.created_at.isoformat(),
        }


class ContextManager:
    """Makes contexts, finds them by path, and moves values between them. Safe for threads.

    A path is the ids from the root on with slashes between them; an id alone will do where only one context has it.
    """

    def __init__(self, propagation_config: ContextPropagationConfig | None = None) -> None:
        self.config = propagation_config or ContextPropagationConfig()
        self._roots: dict[str, HierarchicalContext] = {}
        self._lock = threading.RLock()

    def create_context(
        self,
        scope: ContextScope,
        context_id: str,
        parent_id: str | None = None,
        secure_context: SecureAgentContext | None = None,
    ) -> HierarchicalContext:
        """A root, or a child of the context at ``parent_id``. Raises :class:`InvalidContextError`."""
        with self._lock:
            if parent_id is not None:
                return self.create_child(parent_id, context_id, scope, secure_context=secure_context)
            made = HierarchicalContext(context_id, scope, secure_context=secure_context)
            self._register(made)
            return made

    def create_child(
        self,
        parent: HierarchicalContext | str,
        context_id: str,
        scope: ContextScope,
        *,
        secure_context: SecureAgentContext | None = None,
        data: Mapping[str, Any] | None = None,
        inherit: Inherit = "configured",
    ) -> HierarchicalContext:
        """A context below ``parent``, which is a context or its path; one that is not known here is, from now on.

        The child has copies of the fields that move down and reads those of them that come later through
        :meth:`HierarchicalContext.get`; with ``inherit="all"`` it reads all that is not sealed. What it writes stays
        here. Raises :class:`InvalidContextError` for an unknown parent, a second child of the same id, or a scope that
        does not fit.
        """
        if inherit not in ("configured", "all"):
            raise InvalidContextError(f"inherit is {inherit!r}, but must be 'configured' or 'all'")
        with self._lock:
            above = self._known(parent)
            child = HierarchicalContext(context_id, scope, secure_context=secure_context)
            if context_id in above.children:
                raise InvalidContextError(f"'{above.path}' has a child '{context_id}' already")
            above.set_child_context(context_id, child)
            child._inherited = None if inherit == "all" else frozenset(self.config.propagate_down)
            above._hand_down(self.config, child)
            child.data.update(copy.deepcopy(dict(data or {})))
            return child

    def get_context(self, path: str) -> HierarchicalContext | None:
        """The context at a path, or with an id that only one has. Raises :class:`InvalidContextError` for several."""
        with self._lock:
            every = self.get_all_contexts()
            if path in every:
                return every[path]
            found = [context for context in every.values() if context.context_id == path]
            if len(found) > 1:
                raise InvalidContextError(f"{len(found)} contexts have the id '{path[:80]}': name one by its path")
            return found[0] if found else None

    def remove_context(self, path: str) -> None:
        """Take out a context with all that is below it, and its share of what is above; an unknown one is ignored."""
        with self._lock:
            context = self.get_context(path)
            if context is None:
                return
            above = context.parent
            if above is None:
                del self._roots[context.context_id]
            else:
                above.remove_child_context(context.context_id)

    def propagate_up(self, path: str, *, recursive: bool = False) -> None:
        """Let the parent know the fields of a context that move up; with ``recursive`` everybody above.

        The parent's ``aggregated`` is made of each child's latest contribution, so that again does no harm. Raises
        :class:`InvalidContextError` for an unknown context or a value that does not fit its rule; then nothing moves.
        """
        with self._lock:
            context = self._required(path)
            while context.parent is not None:
                context.parent._take(self.config, context)
                context = context.parent
                if not recursive:
                    break

    def propagate_down(self, path: str, *, recursive: bool = False) -> None:
        """Give each child a copy of the fields that move down; with ``recursive`` everybody below."""
        with self._lock:
            self._down(self._required(path), recursive)

    def _down(self, context: HierarchicalContext, recursive: bool) -> None:
        for child in context.children.values():
            context._hand_down(self.config, child)
            if recursive:
                self._down(child, recursive)

    def get_all_contexts(self) -> dict[str, HierarchicalContext]:
        """Every context by its path."""
        with self._lock:
            return {one.path: one for root in self._roots.values() for one in _all_below(root)}

    def get_root_contexts(self) -> dict[str, HierarchicalContext]:
        """The contexts with nothing above them, by id."""
        with self._lock:
            return dict(self._roots)

    def _register(self, root: HierarchicalContext) -> None:
        if self._roots.get(root.context_id, root) is not root:
            raise InvalidContextError(f"there is a root context '{root.context_id}' already")
        self._roots[root.context_id] = root

    def _known(self, context: HierarchicalContext | str) -> HierarchicalContext:
        if isinstance(context, str):
            return self._required(context)
        root = context
        while root.parent is not None:
            root = root.parent
        self._register(root)
        return context

    def _required(self, path: str) -> HierarchicalContext:
        context = self.get_context(path)
        if context is None:
            raise InvalidContextError(f"there is no context '{path[:200]}': create it first")
        return context


def _all_below(context: HierarchicalContext) -> Iterator[HierarchicalContext]:
    yield context
    for child in context.children.values():
        yield from _all_below(child)
