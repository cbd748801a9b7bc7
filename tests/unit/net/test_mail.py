"""Mail leaves through one registered server, in a bounded time, and no error tells more than it should."""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.net import (
    CertificateError,
    ConnectError,
    MailClient,
    MailRefusedError,
    MailServer,
    OutboundGuard,
    RequestTimeoutError,
)
from llmteam.net.mail_address import looks_like_address
from llmteam.net.transport import tls_context
from tests.mailbox import Mailbox, mail_server
from tests.unit.net.loopback import certificate, server_context

ADA = "ada@example.com"


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "inbox@example.com", ADA, "Prüfen?"
    made.set_content("Grüße\n")
    return made


def client(server: Mailbox | str, context: ssl.SSLContext | None = None, timeout: float = 10.0) -> MailClient:
    url = server if isinstance(server, str) else server.url()
    return MailClient(MailServer.parse(url), guard=OutboundGuard(), context=context, timeout=timeout)


@contextmanager
def answering(*lines: bytes, then: threading.Event | None = None) -> Iterator[str]:
    """A server that says ``lines``, one at the beginning and one for each line it gets; then hangs up, or waits."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            # Who gave up does not listen any more.
            with suppress(OSError), connection, connection.makefile("rb") as heard:
                for line in lines:
                    connection.sendall(line)
                    heard.readline()
                if then is not None:
                    over.wait(30)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{listening.getsockname()[1]}?from=inbox@example.com"
        finally:
            over.set()
            # Where nobody ever came, it would wait for ever.
            socket.create_connection(listening.getsockname()).close()
            thread.join()


def test_a_message_arrives_as_it_was_written() -> None:
    with mail_server() as mailbox:
        client(mailbox).send(message(), ADA)

    (received,) = mailbox.messages
    assert (received["Subject"], received.get_content().rstrip()) == ("Prüfen?", "Grüße")
    assert mailbox.envelopes == [("inbox@example.com", [ADA])]


def test_a_login_and_a_message_are_encrypted_when_that_is_asked_for(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "localhost")
    trusting = tls_context(pem)
    with mail_server(context=server_context(pem), login=True) as mailbox:
        url = f"smtp://ada:right@localhost:{mailbox.port}?from=inbox@example.com&starttls=1"
        client(url, trusting).send(message(), ADA)

    assert mailbox.encrypted == [True]
    assert mailbox.logins == [(b"ada", b"right")]


def test_a_certificate_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "localhost")
    with mail_server(context=server_context(pem)) as mailbox:
        url = f"smtp://localhost:{mailbox.port}?from=inbox@example.com&starttls=1"
        with pytest.raises(CertificateError, match="its certificate is refused"):
            client(url).send(message(), ADA)

    assert mailbox.messages == []


def test_nothing_is_sent_when_the_server_offers_no_encryption_although_it_was_asked_for() -> None:
    with (
        mail_server() as mailbox,
        pytest.raises(MailRefusedError, match="refuses what the settings ask for"),
    ):
        client(mailbox.url(starttls="1")).send(message(), ADA)

    assert mailbox.messages == []


def test_a_wrong_password_is_named_as_such_and_not_told(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "localhost")
    trusting = tls_context(pem)
    with mail_server(context=server_context(pem), login=True) as mailbox:
        url = f"smtp://ada:s3cret@localhost:{mailbox.port}?from=inbox@example.com&starttls=1"
        with pytest.raises(MailRefusedError, match="user and password") as refused:
            client(url, trusting).send(message(), ADA)

    assert (refused.value.code, refused.value.retryable) == (535, False)
    assert "s3cret" not in whole(refused.value)


@pytest.mark.parametrize(("reply", "retryable"), [("550 no such user s3cret", False), ("451 later, s3cret", True)])
def test_a_recipient_that_is_refused_is_told_by_the_reply_code_alone(reply: str, retryable: bool) -> None:
    with mail_server() as mailbox:
        mailbox.refuse[ADA] = reply
        with pytest.raises(MailRefusedError, match="refuses the recipient") as refused:
            client(mailbox).send(message(), ADA)

    assert (refused.value.code, refused.value.retryable) == (int(reply[:3]), retryable)
    assert "s3cret" not in whole(refused.value)
    assert ADA not in whole(refused.value)


def test_a_server_that_is_away_is_a_connection_that_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    with pytest.raises(ConnectError, match=f"127.0.0.1:{port}"):
        client(f"smtp://127.0.0.1:{port}?from=inbox@example.com").send(message(), ADA)


def test_a_server_that_hangs_up_is_a_connection_that_broke() -> None:
    with answering(b"220 here\r\n") as url, pytest.raises(ConnectError, match="the connection broke"):
        client(url).send(message(), ADA)


def test_a_server_that_is_busy_refuses_the_connection() -> None:
    with answering(b"421 busy\r\n") as url, pytest.raises(MailRefusedError, match="refuses the connection"):
        client(url).send(message(), ADA)


def test_a_server_that_says_nothing_costs_no_more_than_the_time_for_one_message() -> None:
    waits = threading.Event()

    with answering(b"220 here\r\n", then=waits) as url, pytest.raises(RequestTimeoutError, match=r"0\.3 s"):
        client(url, timeout=0.3).send(message(), ADA)


def whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mail.example.com", "no URL like"),
        ("http://mail.example.com?from=a@b.c", "no URL like"),
        ("smtp://mail.example.com:99999?from=a@b.c", "no URL like"),
        ("smtp://mail.example.com", "names no sender"),
        ("smtp://mail.example.com?from=Ada <a@b.c>", "names no sender"),
        ("smtp://ada:s3cret@mail.example.com?from=a@b.c", "unencrypted: add starttls=1"),
    ],
)
def test_a_server_that_cannot_be_used_is_a_matter_of_the_settings(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        MailServer.parse(url)

    assert "s3cret" not in str(refused.value)


def test_a_server_is_read_with_all_that_its_url_says() -> None:
    server = MailServer.parse("smtps://ada%40example.com:s%2F3@[::1]?from=inbox@example.com")

    assert (server.host, server.port, server.tls, server.starttls) == ("::1", 465, True, False)
    assert (server.user, server.password) == ("ada@example.com", "s/3")
    assert "s/3" not in repr(server)
    assert MailServer.parse("smtp://mail.example.com?from=a@b.c").port == 25


@pytest.mark.parametrize("text", [ADA, "a.b+c@mail.example.com", "x_y-z'@e.org"])
def test_plain_addresses_look_like_addresses(text: str) -> None:
    assert looks_like_address(text)


@pytest.mark.parametrize(
    "text",
    ["", "ada", "@", "ada@", "@b.c", "Ada <a@b.c>", "a@b.c,d@e.f", "a@b.c\nBcc: d@e.f", "a b@c.d", '"a"@b.c', "a@b..c"],
)
def test_anything_else_does_not(text: str) -> None:
    assert not looks_like_address(text)


@given(st.text(max_size=40))
def test_what_looks_like_an_address_makes_one_header_with_one_address(text: str) -> None:
    if looks_like_address(text):
        made = EmailMessage()
        made["To"] = text
        assert [str(one.addr_spec) for one in made["To"].addresses] == [text]


def test_a_server_that_talks_nonsense_raises_an_error_of_our_own() -> None:
    with answering(b"what?\r\n") as url, pytest.raises(LLMTeamError):
        client(url).send(message(), ADA)
