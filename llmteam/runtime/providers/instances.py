"""Pure: a small instance of a JSON schema, the same for the same identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmteam import codec

#: Levels of references and nesting that are followed.
_DEPTH = 20

#: A valid text for each format that JSON Schema names (RFC 3339, RFC 3986, RFC 4122, RFC 5321).
_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "nobody@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "00:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


#: The type that a keyword tells of where a schema names none.
_HINTS = {"properties": "object", "required": "object", "items": "array", "minimum": "number", "maximum": "number"}


class Instances:
    """Makes an instance of ``schema``: required properties, least lengths, choices by the digest of ``identity``.

    Not every schema is within its reach; the caller validates. Texts begin with ``mark`` where they have room.
    """

    def __init__(self, schema: Mapping[str, Any], identity: str, mark: str) -> None:
        self._root = schema
        self._identity = identity
        self._mark = mark

    def make(self) -> Any:
        """The instance. Raises ``RecursionError`` when the schema only has endless ones."""
        return self._of(self._root, "$", 0)

    def _of(self, schema: Any, path: str, depth: int) -> Any:
        if depth > _DEPTH:
            raise RecursionError
        if not isinstance(schema, Mapping):
            return self._text({}, path)
        schema = self._resolved(schema, depth)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        for key in ("enum", "examples"):
            if isinstance(schema.get(key), Sequence) and schema[key]:
                return schema[key][self._number(path, len(schema[key]))]
        return self._by_type(schema, path, depth)

    def _by_type(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        match _type_of(schema):
            case "object":
                return self._object(schema, path, depth)
            case "array":
                return self._array(schema, path, depth)
            case "number" | "integer":
                return self._numeric(schema, path)
            case "boolean":
                return self._number(path, 2) == 1
            case "null":
                return None
            case _:
                return self._text(schema, path)

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """``schema`` with its reference and the first of each alternative laid over it."""
        for _ in range(_DEPTH):
            reference = schema.get("$ref")
            alternatives = [schema[key][0] for key in ("anyOf", "oneOf") if schema.get(key)]
            parts = [*([self._target(reference)] if reference else []), *alternatives, *schema.get("allOf", ())]
            if not parts:
                return schema
            rest = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "oneOf", "allOf")}
            schema = _merged([rest, *parts])
        raise RecursionError

    def _target(self, reference: object) -> Any:
        """What a reference within the schema points at (RFC 6901); nothing for any other."""
        found: Any = self._root
        for part in str(reference).removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return found

    def _object(self, schema: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        more = [name for name in properties if name not in required]
        missing = max(0, int(schema.get("minProperties", 0)) - len(required))
        return {
            name: self._of(properties.get(name, {}), f"{path}.{name}", depth + 1) for name in required + more[:missing]
        }

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems", [])
        count = max(int(schema.get("minItems", 0)), 1 if "contains" in schema else 0)
        rest = schema.get("contains", schema.get("items", {}))
        return [
            self._of(first[place] if place < len(first) else rest, f"{path}[{place}]", depth + 1)
            for place in range(min(count, 1000))
        ]

    def _numeric(self, schema: Mapping[str, Any], path: str) -> int | float:
        whole = _type_of(schema) == "integer"
        step = schema.get("multipleOf", 1 if whole else 0.01)
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        low = (min(0, high) if high is not None else 0) if low is None else low
        high = low + 100 * step if high is None else high
        first = -(-low // step) + (1 if schema.get("exclusiveMinimum") is not None and low % step == 0 else 0)
        last = high // step - (1 if schema.get("exclusiveMaximum") is not None and high % step == 0 else 0)
        value = (first + self._number(path, max(1, int(last - first) + 1))) * step
        return int(value) if whole else round(value, 10)

    def _text(self, schema: Mapping[str, Any], path: str) -> str:
        known = _FORMATS.get(str(schema.get("format")))
        if known is not None:
            return known
        digest = codec.digest(f"{self._identity}{path}")[:8]
        text = f"{self._mark} {digest}"
        most, least = schema.get("maxLength"), int(schema.get("minLength", 0))
        if isinstance(most, int) and most < len(text):
            text = digest[:most]
        return text.ljust(min(least, 100_000), ".")

    def _number(self, path: str, below: int) -> int:
        """A choice among ``below`` numbers, decided by identity and place."""
        return int(codec.digest(f"{self._identity}{path}")[:12], 16) % below


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = next((_HINTS[key] for key in _HINTS if key in schema), "string")
    return str(kind)


def _merged(parts: Sequence[Any]) -> dict[str, Any]:
    """One schema that has the properties and requirements of all ``parts``; of anything else the first word wins."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items() if isinstance(part, Mapping) else ():
            if key == "properties":
                merged[key] = {**value, **merged.get(key, {})}
            elif key == "required":
                merged[key] = list(dict.fromkeys([*merged.get(key, ()), *value]))
            else:
                merged.setdefault(key, value)
    return merged
