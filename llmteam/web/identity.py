"""Who asks: a person of a tenant, by an access token in a header (API) or in the session's cookie (pages)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from llmteam.human.links import Access
from llmteam.human.rulings import Case, is_asked
from llmteam.tenancy import TenantContext
from llmteam.web.exceptions import NotSignedInError
from llmteam.web.parts import Parts, parts_of

#: The group whose members see all requests of their tenant, and may cancel them.
OPERATORS = "operators"

_bearer = HTTPBearer(auto_error=False, description="An access token: `llmteam inbox token --user U`.")


@dataclass(frozen=True, slots=True)
class Identity:
    """A person of a tenant, and the groups they are in; ``until`` is when their access ends, where that is known."""

    tenant_id: str
    person: str
    groups: frozenset[str] = frozenset()
    until: datetime | None = field(default=None, compare=False)

    @classmethod
    def of(cls, access: Access) -> Identity:
        """Who a token says they are."""
        return cls(access.tenant_id, access.person, frozenset(access.groups), access.expires_at)

    @property
    def is_operator(self) -> bool:
        """Whether they see all requests of their tenant."""
        return OPERATORS in self.groups

    def may_see(self, case: Case) -> bool:
        """Whether a request is shown to them: who is or was asked, took part, or started the run; and operators."""
        request = case.request
        took_part = {request.requester_id, request.claimed_by, *(vote.responder_id for vote in case.votes)}
        return self.is_operator or self.person in took_part or is_asked(request, self.person, self.groups)


def session_cookie(parts: Parts) -> str:
    """The name of the cookie that carries the access token of a session; browsers guard the prefix."""
    return "__Host-llmteam-session" if parts.is_secure else "llmteam-session"


async def api_identity(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> AsyncIterator[Identity]:
    """Who asks the API; their tenant is the current one until the answer is sent.

    Raises :class:`NotSignedInError`, :class:`AccessTokenError`. Cookies count for nothing here.
    """
    if given is None:
        raise NotSignedInError("the header Authorization: Bearer TOKEN is missing")
    parts = parts_of(request)
    identity = Identity.of(parts.signer.read_access(given.credentials, parts.now()))
    with TenantContext(identity.tenant_id):
        yield identity


async def page_identity(request: Request) -> AsyncIterator[Identity]:
    """Who looks at a page. Raises :class:`NotSignedInError`, :class:`AccessTokenError`."""
    parts = parts_of(request)
    token = request.cookies.get(session_cookie(parts))
    if not token:
        raise NotSignedInError("this page needs to know who you are")
    identity = Identity.of(parts.signer.read_access(token, parts.now()))
    with TenantContext(identity.tenant_id):
        yield identity


ApiIdentity = Annotated[Identity, Depends(api_identity)]
PageIdentity = Annotated[Identity, Depends(page_identity)]
