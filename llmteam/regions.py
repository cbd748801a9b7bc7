"""Regions: where a tenant's steps run, and what the queues are called that bring them there. Pure.

A queue of the region ``default`` has its plain name; one of another region has the region in it: ``llmteam.io`` is
``llmteam.eu-west-1.io`` there. Workers of a region consume its queues and no others.
"""

from __future__ import annotations

import re

from llmteam.ids import InvalidIdentifierError

#: Region of what nobody says anything about.
DEFAULT_REGION = "default"

_PREFIX = "llmteam."
_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_RULE = "a region is 1 to 63 letters, digits and dashes, beginning and ending with a letter or digit"


def check_region(what: str, value: str) -> str:
    """Return ``value`` when it can name a region, else raise :class:`InvalidIdentifierError`."""
    if not isinstance(value, str) or _REGION.fullmatch(value) is None:
        raise InvalidIdentifierError(what, str(value), _RULE)
    return value


def queue_in(queue: str, region: str) -> str:
    """The queue of ``region`` for what ``queue``, of whatever region, is for."""
    kind = queue.rpartition(".")[2]
    return f"{_PREFIX}{kind}" if region == DEFAULT_REGION else f"{_PREFIX}{region}.{kind}"


def region_of(queue: str) -> str:
    """The region of a queue."""
    return queue.removeprefix(_PREFIX).rpartition(".")[0] or DEFAULT_REGION


def plain(queue: str) -> str:
    """The queue of the region ``default`` for what ``queue`` is for; a queue that is none of ours stays as it is."""
    return queue_in(queue, DEFAULT_REGION) if queue.startswith(_PREFIX) else queue
