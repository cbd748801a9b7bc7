"""What queues are called in each region, and what may be a region's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.dispatch import QUEUES, is_ours, quarantine_beside, queues_in, step_queues
from llmteam.errors import ConfigurationError
from llmteam.ids import InvalidIdentifierError
from llmteam.regions import DEFAULT_REGION, check_region, plain, queue_in, region_of
from llmteam.settings import Settings

REGIONS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(st.sampled_from(QUEUES), REGIONS, REGIONS)
def test_the_region_of_a_queue_is_in_its_name_and_comes_out_again(queue: str, region: str, other: str) -> None:
    there = queue_in(queue, region)

    assert (region_of(there), plain(there), is_ours(there)) == (region, queue, True)
    assert queue_in(there, other) == queue_in(queue, other)
    assert quarantine_beside(there) == queue_in("llmteam.quarantine", region)


@given(st.lists(REGIONS, unique=True, max_size=5))
def test_no_two_regions_share_a_queue(regions: list[str]) -> None:
    names = [queue for region in regions for queue in queues_in(region)]

    assert len(set(names)) == len(names)


def test_the_default_region_has_the_plain_names() -> None:
    assert queues_in(DEFAULT_REGION) == QUEUES
    assert queue_in("llmteam.io", "eu-west-1") == "llmteam.eu-west-1.io"
    assert [queue.name for queue in step_queues("eu-west-1")] == list(queues_in("eu-west-1"))


@pytest.mark.parametrize("queue", ["mail", "shop.llmteam.io", "llmteam.eu.unknown"])
def test_queues_of_others_are_not_ours(queue: str) -> None:
    assert not is_ours(queue)


@pytest.mark.parametrize("name", ["", "-eu", "eu-", "eu.west", "eu west", "eu/west", "é", "x" * 64, "*", "eu\n"])
def test_a_name_that_could_be_mistaken_for_something_else_is_no_region(name: str) -> None:
    with pytest.raises(InvalidIdentifierError, match="1 to 63 letters, digits and dashes"):
        check_region("data_region", name)


def test_the_region_of_a_process_comes_from_its_environment() -> None:
    assert Settings.load({}).region == DEFAULT_REGION
    assert Settings.load({"LLMTEAM_REGION": "eu-west-1"}).region == "eu-west-1"
    with pytest.raises(ConfigurationError, match=r"LLMTEAM_REGION is 'eu\.west'"):
        Settings.load({"LLMTEAM_REGION": "eu.west"})
