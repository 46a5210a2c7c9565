"""Signals that ask a run to end early."""

import signal
import threading
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Remembers the first SIGINT or SIGTERM, so that a chunk can be finished; a second one raises at once.

    Attributes:
        signum: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def requested(self) -> bool:
        """Whether the run is to end."""
        return self.signum is not None

    @property
    def terminated(self) -> bool:
        """Whether the whole program is to end."""
        return self.signum == signal.SIGTERM

    @contextmanager
    def listening(self):
        """Within, signals only set `signum`. Only the main thread can listen; in others this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(signum: int, frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.signum = signum

        previous = {each: signal.signal(each, handler) for each in SIGNALS}
        try:
            yield
        finally:
            for each, old in previous.items():
                # None: set outside of Python, and not to be set from here.
                if old is not None:
                    signal.signal(each, old)
