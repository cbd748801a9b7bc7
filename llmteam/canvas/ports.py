"""What the engine needs from outside: handlers. And how a handler names its output ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llmteam.human.models import InteractionRequest
    from llmteam.runtime.context import StepContext


#: The port that is live only when its step failed for good, or when its handler said so.
ERROR_PORT = "error"
#: The port that carries what a step's handler annotated. Only steps that the engine makes itself are joined by it.
ANNOTATIONS_PORT = "@annotations"


class Ports(dict[str, Any]):
    """A handler's explicit answer: one value per output port.

    Built-in handlers always return it. A plain ``dict`` from a user's handler is a port map only when all
    its keys are declared output ports, so that routing never depends on what user data happens to be called.
    """


class Broadcast:
    """A handler's answer that stands on every output port alike, stored once."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Ask:
    """A handler's answer that a person has to decide: the step waits for them, and holds no worker meanwhile."""

    def __init__(self, request: InteractionRequest) -> None:
        self.request = request


class StepHandler(Protocol):
    """A step's work: a plain or ``async`` function, or an object with such a ``__call__``.

    It may run more than once for the same step (at least once); only one result counts. ``input_data`` is the
    run's input for the entrypoint, else one value per input port that a live edge reaches.
    """

    def __call__(self, ctx: StepContext, config: dict[str, Any], input_data: Any, /) -> Any: ...
