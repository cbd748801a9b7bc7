"""What is measured on a page that is shown."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

#: Everything axe-core knows of WCAG up to 2.2 AA, and what it takes for good practice.
_AXE = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
#: CSS pixels that a target has at least in both directions (WCAG 2.2, 2.5.8).
TARGET = 24
#: What people press, fill and follow.
_CONTROLS = "a[href], button, input:not([type=hidden]), select, textarea, summary"
_ROLES = {
    *(
        "button",
        "link",
        "textbox",
        "checkbox",
        "radio",
        "combobox",
        "listbox",
        "spinbutton",
        "Date",
        "DisclosureTriangle",
    ),
    *("navigation", "region", "form", "group", "alert", "status", "image"),
}
#: Roles that need no name of their own when they have none.
_UNNAMED = {"alert", "status", "group", "form"}


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong."""
    found = Axe().run(page, options=_AXE).response["violations"]
    return [f"{one['id']}: {node['html']}: {node['failureSummary']}" for one in found for node in one["nodes"]]


def small_targets(page: Page) -> list[str]:
    """What is harder to hit than it should be."""
    script = """([controls, least]) => [...document.querySelectorAll(controls)]
        .filter(one => one.checkVisibility() && !one.closest('.skip'))
        .map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
        .filter(([_, box]) => box.width < least || box.height < least)
        .map(([html, box]) => `${box.width}x${box.height} ${html}`)"""
    found: list[str] = page.evaluate(script, [_CONTROLS, TARGET])
    return found


def overflow(page: Page) -> int:
    """Pixels that a page is wider than the screen."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


def tree(page: Page) -> list[tuple[str, str]]:
    """Role and name of each control and landmark, as assistive technology gets them."""
    session = page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    seen = [one for one in nodes if not one["ignored"]]
    named = [(one["role"]["value"], one.get("name", {}).get("value", "").strip()) for one in seen]
    return [(role, name) for role, name in named if role in _ROLES]


def nameless(page: Page) -> list[str]:
    """Roles of controls and landmarks that have no name."""
    return [role for role, name in tree(page) if not name and role not in _UNNAMED]


def focused(page: Page) -> tuple[str, str]:
    """What has the focus, as its element and its text, label or name."""
    script = """() => { const one = document.activeElement;
        const said = one.labels?.[0]?.innerText || one.innerText || one.name || '';
        return [one.tagName.toLowerCase(), said.trim()]; }"""
    tag, said = page.evaluate(script)
    return tag, said


def focus_shows(page: Page) -> bool:
    """Whether a line of at least two pixels surrounds what has the focus, and it is on the screen."""
    script = """() => { const one = document.activeElement, box = one.getBoundingClientRect();
        const lined = [null, '::after'].map(part => getComputedStyle(one, part))
            .some(style => style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2);
        return lined && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth; }"""
    shows: bool = page.evaluate(script)
    return shows
