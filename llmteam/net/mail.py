"""Mail through the one server that the operator registered, over the guard, with an end to the whole exchange."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import parse_qs, unquote, urlsplit

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.net.addresses import Endpoint
from llmteam.net.defaults import default_guard
from llmteam.net.errors import (
    CertificateError,
    ConnectError,
    MailRefusedError,
    OutboundRefusedError,
    RequestTimeoutError,
)
from llmteam.net.guard import OutboundGuard
from llmteam.net.mail_address import looks_like_address
from llmteam.net.sockets import Limit, LimitedTLSSocket, bind
from llmteam.net.transport import tls_context
from llmteam.net.urls import parse_host

#: Seconds that one message may take, from the connection to the server's last word.
MAIL_SECONDS = 15.0

_PORTS = {"smtp": 25, "smtps": 465}
_SHAPE = "smtp://user:password@host:587?from=inbox@example.com&starttls=1"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class MailServer:
    """A server that takes mail, and the sender of what is sent through it."""

    host: str
    port: int
    sender: str
    tls: bool = False
    starttls: bool = False
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> MailServer:
        """Read ``smtp://user:password@host:port?from=sender&starttls=1``, or ``smtps://…`` for TLS from the start.

        Raises :class:`ConfigurationError`; also when a password would travel unencrypted to another machine.
        """
        try:
            parts = urlsplit(url)
            host = parse_host(parts.hostname or "", literal_ipv6=":" in (parts.hostname or ""))
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError, OutboundRefusedError):
            raise ConfigurationError(f"the mail server is no URL like {_SHAPE}") from None
        query = parse_qs(parts.query)
        sender, starttls = query.get("from", [""])[0], query.get("starttls", ["0"])[0] in {"1", "true", "yes"}
        if not looks_like_address(sender):
            raise ConfigurationError(f"the mail server's URL names no sender: end it with ?from=…, as in {_SHAPE}")
        tls = parts.scheme == "smtps"
        if parts.password and not (tls or starttls or host in _LOOPBACK):
            raise ConfigurationError(f"the mail server {host} would get its password unencrypted: add starttls=1")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(host, port, sender, tls, starttls and not tls, user, password)

    @property
    def where(self) -> str:
        """Host and port, for error texts."""
        return str(Endpoint(self.host, self.port))


class MailClient:
    """Sends mail through ``server``, one connection for each message. Safe for many threads.

    Its exact host and port are trusted for this client, on a private network too.
    """

    def __init__(
        self,
        server: MailServer,
        *,
        guard: OutboundGuard | None = None,
        context: ssl.SSLContext | None = None,
        timeout: float = MAIL_SECONDS,
    ) -> None:
        self.server = server
        self._guard = guard
        self._context = context
        self._timeout = timeout

    def send(self, message: EmailMessage, recipient: str) -> None:
        """Hand ``message`` to the server; returns when the server has taken it.

        Raises :class:`OutboundRefusedError`, :class:`ConnectError`, :class:`RequestTimeoutError`,
        :class:`MailRefusedError`.
        """
        self._converse(lambda session: session.send_message(message, self.server.sender, [recipient]))

    def check(self) -> None:
        """Connect, log in if there is a user, and leave. Raises as :meth:`send` does."""
        self._converse(lambda session: None)

    def _converse(self, say: Callable[[smtplib.SMTP], object]) -> None:
        limit = Limit(self._timeout)
        failure: LLMTeamError
        try:
            with self._session(limit) as session:
                say(session)
            return
        except OSError as exc:
            failure = _translated(exc, self.server.where, limit)
        # Out here, so that the library's error, whose text has addresses and the server's words, is not its context.
        raise failure

    @contextmanager
    def _session(self, limit: Limit) -> Iterator[smtplib.SMTP]:
        server = self.server
        session = _Session(server, self._guard or default_guard(), limit, self._context or tls_context())
        try:
            if server.starttls:
                session.start_tls()
            if server.user:
                session.login(server.user, server.password)
            yield session
            # What was to be done is done: how the server parts does not matter.
            with suppress(OSError):
                session.quit()
        finally:
            session.close()


def _translated(exc: OSError, where: str, limit: Limit) -> LLMTeamError:
    """The library's errors, all of them kinds of ``OSError``, in our words."""
    if limit.expired:
        return RequestTimeoutError(where, limit.seconds)
    if isinstance(exc, ssl.SSLCertVerificationError):
        return CertificateError(where, f"its certificate is refused: {exc.verify_message}")
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        return MailRefusedError(where, "the recipient", next((code for code, _ in exc.recipients.values()), 0))
    if isinstance(exc, smtplib.SMTPNotSupportedError):
        return MailRefusedError(where, "what the settings ask for, TLS or a login", 0)
    if isinstance(exc, smtplib.SMTPResponseException):
        refused = next((what for kind, what in _REFUSED if isinstance(exc, kind)), "the message")
        return MailRefusedError(where, refused, exc.smtp_code)
    return ConnectError(where, "TLS failed" if isinstance(exc, ssl.SSLError) else "the connection broke")


_REFUSED = (
    (smtplib.SMTPConnectError, "the connection"),
    (smtplib.SMTPHeloError, "this machine's name"),
    (smtplib.SMTPAuthenticationError, "user and password"),
    (smtplib.SMTPSenderRefused, "the sender"),
)


class _Session(smtplib.SMTP):
    """One conversation, over a connection that the guard made."""

    def __init__(self, server: MailServer, guard: OutboundGuard, limit: Limit, context: ssl.SSLContext) -> None:
        context.sslsocket_class = LimitedTLSSocket
        self._server = server
        self._guard = guard.trusting(server.where)
        self._limit = limit
        self._tls = context
        name = socket.gethostname()
        # Its own default would ask a name server, without a limit.
        super().__init__(
            server.host, server.port, local_hostname=name if "." in name else "[127.0.0.1]", timeout=limit.seconds
        )

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """Called by the base class."""
        found: socket.socket = self._guard.connect(host, port, self._limit)
        bind(found, self._limit)
        if self._server.tls:
            found = self._wrapped(found)
        return found

    def start_tls(self) -> None:
        """TLS from here on; raises what :meth:`send` knows when the server does not offer it."""
        self.starttls(context=self._tls)
        bind(self.sock, self._limit)

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        try:
            wrapped = self._tls.wrap_socket(plain, server_hostname=self._server.host)
        except BaseException:
            plain.close()
            raise
        bind(wrapped, self._limit)
        return wrapped
