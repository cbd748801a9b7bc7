"""What the steps use by name: the ticket service, and a model.

The model is whatever serves ``OPENAI_BASE_URL`` or ``OPENAI_API_KEY`` (which one: ``LLMTEAM_EXAMPLE_MODEL``), else the
stand-in ``offline``, which is no model and says so.
"""

from __future__ import annotations

import os

from llmteam.errors import ConfigurationError
from llmteam.net import BaseUrlClient
from llmteam.runtime import LLMProvider, OfflineProvider, OpenAIProvider, RuntimeContextManager, default_manager
from llmteam.settings import Settings

SERVICE = "ticket_service"
MODEL = "triage_model"

URL_VARIABLE = "LLMTEAM_EXAMPLE_URL"
MODEL_VARIABLE = "LLMTEAM_EXAMPLE_MODEL"
DEFAULT_MODEL = "gpt-4o-mini"


def register(url: str, manager: RuntimeContextManager | None = None) -> None:
    """Register both; the exact host and port of ``url`` are trusted for this client from then on."""
    manager = manager or default_manager()
    manager.register_client(SERVICE, BaseUrlClient(url))
    manager.register_llm(MODEL, _model(Settings.load()))


def unregister(manager: RuntimeContextManager | None = None) -> None:
    """Forget both."""
    manager = manager or default_manager()
    manager.clients.unregister(SERVICE)
    manager.llms.unregister(MODEL)


def register_from_environment() -> None:
    """:func:`register` with the URL of the environment. Raises :class:`ConfigurationError` without one."""
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigurationError(
            f"{URL_VARIABLE} is not set: it says where the example's ticket service is. `llmteam run --example "
            "ticket-triage` starts that too; `python -m llmteam.examples.ticket_triage.service` prints its URL"
        )
    register(url)


def _model(settings: Settings) -> LLMProvider:
    if not settings.openai_api_key and not settings.openai_base_url:
        return OfflineProvider()
    return OpenAIProvider(
        api_key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        model=os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL,
    )
