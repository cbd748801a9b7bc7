"""The stand-in that answers without any model, always the same to the same request, and says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from llmteam import codec
from llmteam.runtime.exceptions import ModelRequestError
from llmteam.runtime.models import Completion, CompletionRequest, Usage
from llmteam.runtime.providers.instances import Instances

#: How every text of the stand-in begins.
MARK = "[offline stand-in, no model]"

_EXCERPT = 160


class OfflineProvider:
    """Answers by excerpt and digest. For demonstrations and tests; nothing of what it says is meant.

    With an ``output_schema`` it gives a small instance of it, choosing by the digest, with the mark in its texts where
    they have room for it.
    """

    def __repr__(self) -> str:
        return "OfflineProvider()"

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        """The answer's text; ``kwargs`` are the fields of :class:`CompletionRequest`."""
        return (await self.chat(CompletionRequest.of(prompt, **kwargs))).text

    async def chat(self, request: CompletionRequest) -> Completion:
        """One answer, the same for equal requests, at no token.

        Raises :class:`ModelRequestError` when it finds no instance of the schema.
        """
        identity = codec.digest(
            codec.canonical([request.model, request.system_prompt, [[m.role, m.content] for m in request.messages]])
        )
        prompt = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        if request.output_schema is None:
            text = f"{MARK} Asked ({identity[:8]}): {_excerpt(prompt)}"
        else:
            text = codec.dumps(_instance(request.output_schema, identity))
        return Completion(text, Usage(), "offline", "stop")


def _excerpt(text: str) -> str:
    """The beginning of ``text`` on one line, cut at a word."""
    line = re.sub(r"\s+", " ", text[: 4 * _EXCERPT]).strip()
    return line if len(line) <= _EXCERPT else line[:_EXCERPT].rsplit(" ", 1)[0] + " …"


def _instance(schema: Mapping[str, Any], identity: str) -> Any:
    kind: type[Validator] = validator_for(schema)
    try:
        kind.check_schema(dict(schema))
        # An empty registry: references lead nowhere but into the schema itself.
        validator = kind(dict(schema), registry=Registry())
        instance = Instances(schema, identity, MARK).make()
        validator.validate(instance)
    except (SchemaError, ValidationError, Unresolvable, RecursionError) as exc:
        where = getattr(exc, "json_path", "$")
        raise ModelRequestError(
            f"offline: the stand-in finds no instance of output_schema ({type(exc).__name__} at {where}); give that "
            "part a `default` or `examples`, or use a model"
        ) from None
    return instance
