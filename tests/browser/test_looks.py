"""How the pages look: readable in the dark, on a phone and to assistive technology. Leaves a picture of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import looks
from tests.browser.people import Stage
from tests.browser.scenes import SCENES

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
SIZES = {"wide": {"width": 1200, "height": 800}, "narrow": {"width": 360, "height": 740}}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCENES)
def test_everybody_can_read_and_use(name: str, size: str, stage: Stage) -> None:
    page = SCENES[name](stage, viewport=SIZES[size])

    found = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}-{size}-{scheme}.png", full_page=True)
        found[scheme] = looks.violations(page)

    assert found == {"light": [], "dark": []}
    assert looks.small_targets(page) == []
    assert looks.overflow(page) == 0
    assert looks.nameless(page) == []
