"""A server that is there and says nothing, as one does whose answers are lost on the way."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Silent:
    """Takes every connection to ``address``, all of them in ``taken``, and never says a word; until closed."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._take, name="silent", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                self.taken.append(self._listening.accept()[0])

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        for one in self.taken:
            one.close()
