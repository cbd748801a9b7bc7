"""The models that a process knows without being told: ``offline``, and what the settings name."""

from __future__ import annotations

import threading

from llmteam.runtime.providers.anthropic import AnthropicProvider
from llmteam.runtime.providers.offline import OfflineProvider
from llmteam.runtime.providers.openai import OpenAIProvider
from llmteam.runtime.resources import LLMProvider, LLMRegistry
from llmteam.settings import Settings

OFFLINE = "offline"
DEFAULT = "default"

#: What to set so that there is a ``default``.
HOW_TO_CONFIGURE = (
    "set OPENAI_API_KEY (and OPENAI_BASE_URL for another server with that API), or ANTHROPIC_API_KEY, or register one "
    "with default_manager().register_llm('default', …) in a module that the worker imports; llm_ref 'offline' answers "
    "without any model"
)

_lock = threading.Lock()
_made: dict[tuple[str, str | None, str | None], LLMProvider] = {}


def builtin_models(settings: Settings | None = None) -> dict[str, LLMProvider]:
    """The built-in models by name: ``offline`` always, ``openai`` and ``anthropic`` when set up, ``default`` as well.

    ``default`` is OpenAI's API when both are set up, and never ``offline``. Equal settings give the same objects.
    """
    settings = Settings.load() if settings is None else settings
    key, url, anthropic_key = settings.openai_api_key, settings.openai_base_url, settings.anthropic_api_key
    with _lock:
        models: dict[str, LLMProvider] = {OFFLINE: _made.setdefault((OFFLINE, None, None), OfflineProvider())}
        if anthropic_key:
            known = _made.get(("anthropic", anthropic_key, None)) or AnthropicProvider(api_key=anthropic_key)
            models[DEFAULT] = models["anthropic"] = _made.setdefault(("anthropic", anthropic_key, None), known)
        if key or url:
            known = _made.get(("openai", key, url)) or OpenAIProvider(api_key=key, base_url=url)
            models[DEFAULT] = models["openai"] = _made.setdefault(("openai", key, url), known)
    return models


def register_models(registry: LLMRegistry, settings: Settings | None = None) -> None:
    """Register the built-in models whose names are still free."""
    for name, provider in builtin_models(settings).items():
        if not registry.has(name):
            registry.register(name, provider)
