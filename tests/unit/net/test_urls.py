from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.net.errors import OutboundRefusedError
from llmteam.net.urls import join_path, parse_target


@pytest.mark.parametrize(
    ("given_url", "sent"),
    [
        ("http://Example.COM", "http://example.com/"),
        ("https://example.com.:443/a?b=c#d", "https://example.com/a?b=c"),
        ("http://example.com:8080/ä b".replace(" ", "%20"), "http://example.com:8080/%C3%A4%20b"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://[2606:4700:0:0::1]:81/", "http://[2606:4700::1]:81/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://8.8.8.8./", "http://8.8.8.8/"),
        ("http://under_score.example/", "http://under_score.example/"),
    ],
)
def test_a_url_is_brought_into_the_one_form_that_is_sent(given_url: str, sent: str) -> None:
    assert parse_target(given_url).url == sent


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0/",
        "http://127.0.0.01/",
        "http://example.123/",
        "http://1.2.3.4.5/",
        "http://0x/",
    ],
)
def test_unusual_spellings_of_ip_addresses_are_refused(url: str) -> None:
    with pytest.raises(OutboundRefusedError, match="unusual spelling"):
        parse_target(url)


def test_characters_that_normalise_to_an_ip_address_are_read_as_that_address() -> None:
    assert parse_target("http://①②⑦.0.0.1/").host == "127.0.0.1"
    assert parse_target("http://127。0。0。1/").host == "127.0.0.1"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://good.example@evil.example/", "user name"),
        ("http://user:pass@example.com/", "user name"),
        ("http://@example.com/", "user name"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://example.com/", "scheme"),
        ("ftp://example.com/", "scheme"),
        ("//example.com/", "scheme"),
        ("example.com", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("", "empty"),
        ("http://exa mple.com/", "blanks"),
        ("http://example.com/\r\nHost: evil", "control characters"),
        ("http://example.com\\@evil.example/", "backslashes"),
        ("http://example.com/\x00", "control characters"),
        ("http://" + "a" * 9000, "8192"),
        ("http:///path", "no host"),
        ("http://example.com:99999/", "cannot be read"),
        ("http://example.com:0/", "port 0"),
        ("http://[::1/", "cannot be read"),
        ("http://[fe80::1%25eth0]/", "host"),
        ("http://127%2e0%2e0%2e1/", "no usable host"),
        ("http://exa$mple.com/", "no usable host"),
        ("http://-bad.example/", "no usable host"),
        ("http://a..b/", "no usable host"),
        (f"http://{'a' * 64}.example/", "no usable host"),
    ],
)
def test_urls_that_two_readers_could_read_differently_are_refused(url: str, reason: str) -> None:
    with pytest.raises(OutboundRefusedError, match=reason):
        parse_target(url)


def test_neither_credentials_nor_query_reach_an_error_text() -> None:
    with pytest.raises(OutboundRefusedError) as caught:
        parse_target("http://user:canary@example.com/?token=canary")
    assert "canary" not in str(caught.value)
    assert "canary" not in repr(parse_target("http://example.com/a?token=canary"))
    assert "canary" not in parse_target("http://example.com/a?token=canary").where


@given(st.text(max_size=60))
def test_whatever_is_accepted_has_the_host_that_was_checked(text: str) -> None:
    for url in (text, f"http://{text}", f"https://example.com{text}"):
        try:
            target = parse_target(url)
        except OutboundRefusedError:
            continue
        parts = urlsplit(target.url)
        assert parts.hostname == target.host
        assert "@" not in parts.netloc
        assert target.url.isascii()
        assert parse_target(target.url).url == target.url


BASE = parse_target("https://api.example/v1/")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("items", "https://api.example/v1/items"),
        ("/items/7?x=1&y=%20", "https://api.example/v1/items/7?x=1&y=%20"),
        ("", "https://api.example/v1/"),
        ("/", "https://api.example/v1/"),
        ("?page=2", "https://api.example/v1/?page=2"),
        ("a/b/", "https://api.example/v1/a/b/"),
        ("@evil.example/", "https://api.example/v1/@evil.example/"),
        ("items#part", "https://api.example/v1/items"),
    ],
)
def test_a_path_is_added_behind_the_base(path: str, sent: str) -> None:
    assert join_path(BASE, path).url == sent


@pytest.mark.parametrize(
    "path",
    ["https://evil.example/", "//evil.example/", "../admin", "a/../../b", "a/%2e%2E/b", "./a", "a\\..\\b", "a\r\nb"],
)
def test_a_path_cannot_leave_its_base(path: str) -> None:
    with pytest.raises(OutboundRefusedError):
        join_path(BASE, path)


@given(st.text(max_size=60) | st.text("/.%2eE?#@:", max_size=12))
def test_no_path_changes_the_origin_or_the_folder(path: str) -> None:
    try:
        joined = join_path(BASE, path)
    except OutboundRefusedError:
        return
    assert joined.origin == BASE.origin
    assert joined.path.startswith("/v1")
    assert parse_target(joined.url).origin == BASE.origin
