"""What a circuit does: values in, values out. ``script`` says the same in Lua; tests compare the two.

Moments and lengths of time are whole milliseconds here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmteam.ratelimit.decisions import ANY_GENERATION, CircuitPermit, Outcome
from llmteam.ratelimit.exceptions import RateLimitError
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState

#: Seconds after which a caller who found no free trial may ask again.
TRIAL_RETRY_SECONDS = 1.0
#: So many times its lease a trial is remembered whose lease has ended: slow calls close a circuit too.
LATE_LEASES = 9
#: Answers with these statuses say that a resource is overloaded or slow, though they blame the caller.
_OVERLOAD = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Circuit:
    """All there is to know of a circuit.

    Attributes:
        generation: grows with each change, and is never that of a circuit that was forgotten in between; 0 before the
            first change.
        since: when the state began.
        until: when an open circuit may be tried.
        successes: successful trials of this half-open period.
        history: outcomes of this closed period, oldest first: when, and whether it failed.
        trials: trials that were not told of: who, and when the lease ends or ended.
    """

    state: CircuitState = CircuitState.CLOSED
    generation: int = 0
    since: int = 0
    until: int = 0
    successes: int = 0
    history: tuple[tuple[int, bool], ...] = ()
    trials: tuple[tuple[str, int], ...] = ()


def millis(seconds: float) -> int:
    """Seconds as whole milliseconds."""
    return round(seconds * 1000)


def allow(circuit: Circuit, config: CircuitBreakerConfig, caller: str, now: int) -> tuple[Circuit, CircuitPermit]:
    """Whether ``caller`` may call, and the circuit after that. Who asks again during a trial goes on with it."""
    if circuit.state is CircuitState.CLOSED:
        return circuit, look(circuit, now)
    if circuit.state is CircuitState.OPEN:
        if now < circuit.until:
            return circuit, look(circuit, now)
        circuit = changed(circuit, CircuitState.HALF_OPEN, now)
    trials = {who: end for who, end in circuit.trials if end + _memory(config) > now}
    under_way = {who for who, end in trials.items() if end > now}
    admitted = caller in under_way or len(under_way) < config.half_open_max_requests
    if admitted:
        trials[caller] = now + millis(config.trial_seconds)
    circuit = replace(circuit, trials=tuple(trials.items()))
    permit = replace(look(circuit, now), admitted=admitted)
    if admitted:
        return circuit, replace(permit, trial=caller)
    return circuit, replace(permit, retry_after=TRIAL_RETRY_SECONDS)


def record(
    circuit: Circuit, config: CircuitBreakerConfig, permit: CircuitPermit, outcome: Outcome, now: int, chance: float
) -> Circuit:
    """The circuit after a call with ``permit`` ended.

    ``chance``, in [0, 1), draws the time that an opening circuit stays open. An outcome of an older generation
    changes nothing, and a trial's success counts once, also after its lease while it is remembered.
    """
    if permit.generation not in {ANY_GENERATION, circuit.generation}:
        return circuit
    if circuit.state is CircuitState.CLOSED:
        return circuit if outcome is Outcome.IGNORED else _recorded(circuit, config, outcome, now, chance)
    if circuit.state is CircuitState.OPEN:
        return circuit
    known = not permit.trial or any(who == permit.trial and end + _memory(config) > now for who, end in circuit.trials)
    circuit = replace(circuit, trials=tuple(trial for trial in circuit.trials if trial[0] != permit.trial))
    if outcome is Outcome.FAILURE:
        return opened(circuit, config, now, chance)
    if outcome is Outcome.SUCCESS and known:
        circuit = replace(circuit, successes=circuit.successes + 1)
        if circuit.successes >= config.success_threshold:
            return changed(circuit, CircuitState.CLOSED, now)
    return circuit


def force(circuit: Circuit, config: CircuitBreakerConfig, state: CircuitState, now: int, chance: float) -> Circuit:
    """The circuit in ``state``, with nothing remembered of before."""
    return opened(circuit, config, now, chance) if state is CircuitState.OPEN else changed(circuit, state, now)


def look(circuit: Circuit, now: int) -> CircuitPermit:
    """The state, without asking for a call."""
    return CircuitPermit(
        admitted=circuit.state is CircuitState.CLOSED,
        state=circuit.state,
        generation=circuit.generation,
        retry_after=max(circuit.until - now, 0) / 1000 if circuit.state is CircuitState.OPEN else 0.0,
        state_seconds=max(now - circuit.since, 0) / 1000 if circuit.generation else None,
    )


def opened(circuit: Circuit, config: CircuitBreakerConfig, now: int, chance: float) -> Circuit:
    """The circuit, open from ``now`` on."""
    return replace(changed(circuit, CircuitState.OPEN, now), until=now + open_millis(config, chance))


def open_millis(config: CircuitBreakerConfig, chance: float) -> int:
    """How long a circuit stays open that opens now."""
    return millis(config.open_timeout.total_seconds() * (1 + config.open_jitter * chance))


def changed(circuit: Circuit, state: CircuitState, now: int) -> Circuit:
    """The circuit at the beginning of ``state``. Numbers of generations follow the clock, so that a circuit that was
    forgotten in between never takes an old outcome for its own.
    """
    return Circuit(state, max(circuit.generation + 1, now), since=now)


def _memory(config: CircuitBreakerConfig) -> int:
    """How long a trial is remembered after its lease."""
    return LATE_LEASES * millis(config.trial_seconds)


def _recorded(circuit: Circuit, config: CircuitBreakerConfig, outcome: Outcome, now: int, chance: float) -> Circuit:
    failed = outcome is Outcome.FAILURE
    kept = max(config.failure_threshold, config.sample_size)
    oldest = now - millis(config.window_seconds)
    recent = [entry for entry in (*circuit.history, (now, failed))[-kept:] if entry[0] > oldest]
    if failed and too_many(config, [entry[1] for entry in recent]):
        return opened(circuit, config, now, chance)
    return replace(circuit, history=tuple(recent))


def too_many(config: CircuitBreakerConfig, failed: list[bool]) -> bool:
    """Whether these outcomes, oldest first, open a circuit: too many failures in a row, or too large a share."""
    in_a_row = next((n for n, bad in enumerate(reversed(failed)) if not bad), len(failed))
    sample = failed[-config.sample_size :]
    share = sum(sample) if len(sample) >= config.sample_size else 0
    return in_a_row >= config.failure_threshold or (share > 0 and share / len(sample) >= config.failure_rate_threshold)


def judged(config: CircuitBreakerConfig, outcome: Outcome, seconds: float) -> Outcome:
    """``outcome``, or a failure when the call was too slow to be a success."""
    slow = config.slow_call_seconds is not None and seconds >= config.slow_call_seconds
    return Outcome.FAILURE if slow and outcome is Outcome.SUCCESS else outcome


def outcome_of(config: CircuitBreakerConfig, error: BaseException | None = None, value: object = None) -> Outcome:
    """What a call says of its resource that raised ``error`` or gave ``value`` back.

    Cancellation and refusals by limits and circuits never count. ``is_failure`` decides the rest; without it every
    value is a success and every error a failure, but those that blame the request: ``retryable = False``, or an HTTP
    status of the 400s that is not 408, 425 or 429.
    """
    if isinstance(error, RateLimitError) or (error is not None and not isinstance(error, Exception)):
        return Outcome.IGNORED
    if config.is_failure is not None:
        answer = config.is_failure(value if error is None else error)
        if isinstance(answer, str):
            return Outcome(answer)
        if error is None:
            return Outcome.FAILURE if answer else Outcome.SUCCESS
        return Outcome.FAILURE if answer else Outcome.IGNORED
    if error is None:
        return Outcome.SUCCESS
    return Outcome.IGNORED if blames_the_request(error) else Outcome.FAILURE


def blames_the_request(error: BaseException) -> bool:
    """Whether an error says that the request was wrong, and nothing of the resource's health."""
    if getattr(error, "retryable", None) is False:
        return True
    statuses = _statuses(error)
    return any(400 <= status < 500 and status not in _OVERLOAD for status in statuses)


def _statuses(error: BaseException) -> Iterable[int]:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(holder, name, None)
            if isinstance(status, int):
                yield status
