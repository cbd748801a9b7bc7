"""Models and secrets behind the runtime's protocols. The SDKs are extras and load on first use."""

from llmteam.runtime.providers.anthropic import AnthropicProvider
from llmteam.runtime.providers.builtin import builtin_models
from llmteam.runtime.providers.offline import OfflineProvider
from llmteam.runtime.providers.openai import OpenAIProvider
from llmteam.runtime.providers.secrets import ChainedSecrets, EnvironmentSecrets, FileSecrets
from llmteam.runtime.providers.vault import VaultSecrets

__all__ = [
    "AnthropicProvider",
    "ChainedSecrets",
    "EnvironmentSecrets",
    "FileSecrets",
    "OfflineProvider",
    "OpenAIProvider",
    "VaultSecrets",
    "builtin_models",
]
