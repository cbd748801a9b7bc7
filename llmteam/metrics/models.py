"""Which metrics there are: names, labels and buckets, by the conventions of Prometheus. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Values of one label that a process tells apart; what comes later counts as :data:`OTHER`.
MOST_VALUES = 100
#: In the place of a value that is one too many, or none that a label may have.
OTHER = "other"

#: Seconds of steps and calls of models.
WORK_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
#: Seconds from due to claimed.
DELAY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Seconds of one round trip to Postgres.
ROUND_TRIP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)


@dataclass(frozen=True, slots=True)
class Label:
    """A label, with all the values that it may have; without any, with the first :data:`MOST_VALUES` that come."""

    name: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """What is counted or measured. The name has its unit, and of a counter ``_total``."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)


#: Of what is not bounded by us: types of steps and limits come from code, models from what answered.
STEP_TYPE, LIMIT, MODEL = Label("step_type"), Label("limit"), Label("model")
#: Without the region.
QUEUE = Label("queue", ("llmteam.control", "llmteam.io", "llmteam.llm", "llmteam.default", "llmteam.quarantine"))
SWEEP = Label("sweep", ("due", "expired", "runs", "starts", "people", "notifications", "retention", "audit", "storage"))

#: What the beat of an installation tells of the whole of it.
GAUGES = tuple(
    Metric(name, "gauge", text, tuple(labels))
    for name, text, *labels in (
        (
            "llmteam_fleet_up",
            "Whether the source answered when it was read last: 1, else 0 and its gauges are missing.",
            Label("source", ("database", "broker")),
        ),
        (
            "llmteam_runs_open",
            "Runs that are not over.",
            Label("status", ("pending", "running", "pausing", "paused")),
        ),
        (
            "llmteam_steps_open",
            "Steps that are not over, by what they wait for; those of paused and queued runs wait for the pause.",
            Label("waits_for", ("inputs", "queue", "lease", "timer", "person", "limit", "pause")),
        ),
        ("llmteam_oldest_due_step_age_seconds", "Seconds for which the oldest due step has not been claimed."),
        ("llmteam_leases_expired", "Running steps whose lease has run out and that nobody has taken back yet."),
        ("llmteam_people_requests_open", "Requests that people have not answered."),
        (
            "llmteam_notifications_open",
            "Notifications that are to be delivered, and those that were given up.",
            Label("state", ("pending", "dead")),
        ),
        ("llmteam_sweep_age_seconds", "Seconds since the sweep of this name last ended.", SWEEP),
        ("llmteam_queue_messages", "Messages in a queue of this region.", QUEUE),
        ("llmteam_queue_consumers", "Workers that answered and consume a queue of this region.", QUEUE),
        ("llmteam_workers", "Celery workers that answered and consume any of our queues, of whatever region."),
    )
)

#: Of each process that answers.
BUILD_INFO = Metric("llmteam_build_info", "gauge", "1, with the version that answers.", (Label("version"),))
