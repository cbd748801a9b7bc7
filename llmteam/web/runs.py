"""The JSON API of runs: starting, listing, looking, steering and following them. For operators.

Handlers are plain functions, which the server runs in threads, but for the stream, which has none of its own.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials
from starlette.concurrency import run_in_threadpool

from llmteam.canvas.exceptions import RunStateError, UnknownSegmentError
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.records import RunRecord
from llmteam.canvas.results import RunConfig
from llmteam.canvas.runs import Runs, Start, Started, StartRules, runtime_ref
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.validation import validate_segment_dict
from llmteam.events.models import TERMINAL_TYPES, EventQuery
from llmteam.ids import check_identifier, new_id
from llmteam.web.api import told_of
from llmteam.web.exceptions import OperatorsOnlyError
from llmteam.web.following import EventSource, told
from llmteam.web.identity import ApiIdentity, Identity, bearer
from llmteam.web.models import RequestSummary
from llmteam.web.parts import Parts, parts_of
from llmteam.web.run_models import (
    CatalogView,
    Graph,
    PauseBody,
    RunList,
    RunSummary,
    RunView,
    SegmentList,
    SegmentSummary,
    SegmentView,
    StartBody,
    StepView,
)
