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


def test_what_is_measured_would_be_found(stage: Stage) -> None:
    page = stage.visitor(viewport=SIZES["narrow"])
    page.set_content(
        "<main><a href='#a' style='color:#ccc'>pale</a><button></button><p style='width:500px'>wide</p></main>"
    )
    page.focus("a")

    assert any("color-contrast" in found for found in looks.violations(page))
    assert any("pale" in found for found in looks.small_targets(page))
    assert looks.overflow(page) > 0
    assert looks.nameless(page) == ["button"]
    page.add_style_tag(content="a:focus { outline: none }")
    assert not looks.focus_shows(page)


def test_words_in_the_console_are_complaints(stage: Stage) -> None:
    page = stage.visitor()
    page.goto("/sign-in")

    with page.expect_console_message(lambda said: "Content Security Policy" in said.text):
        page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://elsewhere.example/x.png'}))")

    assert any("Content Security Policy" in complaint for complaint in stage.complaints)
    stage.complaints.clear()  # of just that
