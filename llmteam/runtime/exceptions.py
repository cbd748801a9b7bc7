"""What can go wrong around resources, secrets and language models.

::

    RuntimeContextError                 no runtime is active, or it is used in a wrong way
    ├── ResourceNotFoundError           nothing is registered under this id
    ├── ResourceAccessDeniedError       registered, but not for this tenant
    └── SecretAccessDeniedError         policy or the provider refuses this secret
    SecretShownError                    an answer, a state or a request of a step holds a secret
    SecretUnavailableError              the place that keeps the secret does not answer
    ModelError                          a language model was asked and gave no usable answer
    ├── ModelNotConfiguredError         no model to ask, or its SDK is not installed
    ├── ModelRequestError               the provider refuses the request as it is
    │   └── ModelAuthenticationError    the provider refuses our key
    ├── ModelUnavailableError           no answer, or a server fault
    │   ├── ModelTimeoutError
    │   └── ModelRateLimitedError
    ├── ModelResponseError              the answer cannot be read or is empty
    └── ModelRefusedError               the model or its filter declined

The text of a :class:`ModelError` holds status, error code and model name, never a prompt, an answer or a key.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmteam.errors import LLMTeamError


class RuntimeContextError(LLMTeamError):
    """No runtime is active, or one is used in a way that cannot work."""

    retryable = False


class ResourceNotFoundError(RuntimeContextError):
    """Nothing is registered under this id.

    ``kind`` is "Store", "Client", "LLM provider" or "Secret"; ``registered`` what there is instead.
    """

    def __init__(self, kind: str, resource_id: str, registered: Sequence[str] = (), fix: str = "") -> None:
        there = f"registered: {', '.join(map(repr, registered[:20]))}" if registered else "nothing is registered"
        remedy = fix or (
            f"{there}; register it in a module that the worker imports (llmteam worker --import yourapp.resources)"
        )
        super().__init__(f"{kind} '{resource_id[:200]}' not found: {remedy}")
        self.kind = kind
        self.resource_id = resource_id
        self.registered = tuple(registered)


class ResourceAccessDeniedError(RuntimeContextError):
    """A resource exists but was registered for other tenants."""

    def __init__(self, kind: str, resource_id: str, tenant_id: str) -> None:
        super().__init__(
            f"{kind} '{resource_id[:200]}' is not open to tenant '{tenant_id}': name the tenant in `tenants` where the "
            "resource is registered"
        )
        self.kind = kind
        self.resource_id = resource_id
        self.tenant_id = tenant_id


class SecretAccessDeniedError(RuntimeContextError):
    """Policy or the secrets provider refuses this secret to this tenant or step."""


class SecretShownError(LLMTeamError):
    """What a step wants to show to others holds a secret that it was given, or a value that it sealed."""

    retryable = False

    def __init__(self, step_id: str, what: str) -> None:
        super().__init__(
            f"Step '{step_id}': its {what} holds a secret that the step was given: leave it out, or hand on its id"
        )
        self.step_id = step_id
        self.what = what


class SecretUnavailableError(LLMTeamError):
    """The place that keeps a secret does not answer, or not in time."""

    retryable = True


class ModelError(LLMTeamError):
    """A language model gave no usable answer. ``status`` is the HTTP status when there is one."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        #: The least delay in seconds that the provider asked for.
        self.retry_after = retry_after


class ModelNotConfiguredError(ModelError):
    """There is no language model to ask, or the SDK of its provider is not installed."""

    retryable = False


class ModelRequestError(ModelError):
    """The provider refuses the request as it is: unknown model, too long, wrong parameter, no credit."""

    retryable = False


class ModelAuthenticationError(ModelRequestError):
    """The provider refuses the key or what it may do."""


class ModelUnavailableError(ModelError):
    """The provider does not answer or answers with a server fault."""

    retryable = True


class ModelTimeoutError(ModelUnavailableError, TimeoutError):
    """The provider did not answer in time."""


class ModelRateLimitedError(ModelUnavailableError):
    """The provider asks for fewer requests."""


class ModelResponseError(ModelError):
    """The answer cannot be read as a completion, or it is empty."""

    retryable = True


class ModelRefusedError(ModelError):
    """The model or the provider's filter declined to answer."""

    retryable = False
