"""What takes actions: over HTTP, by a function, by one statement of a database, by a message."""

from llmteam.actions.handlers.base import ActionHandler
from llmteam.actions.handlers.database import DatabaseActionHandler, Statements
from llmteam.actions.handlers.function import FunctionActionHandler
from llmteam.actions.handlers.http import HttpRequestHandler, RestActionHandler, WebhookActionHandler
from llmteam.actions.handlers.queue import MessageQueueActionHandler

__all__ = [
    "ActionHandler",
    "DatabaseActionHandler",
    "FunctionActionHandler",
    "HttpRequestHandler",
    "MessageQueueActionHandler",
    "RestActionHandler",
    "Statements",
    "WebhookActionHandler",
]
