"""``llmteam`` as a user runs it, but for one thing: it drains and ends when the harness does, however that ends."""

from __future__ import annotations

import signal

from llmteam.cli.child import die_with_parent
from llmteam.cli.main import main

if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    main()
