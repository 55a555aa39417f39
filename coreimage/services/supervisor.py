"""The supervisor of services: it starts each when the one before is ready, restarts one that ends by itself, and ends
all together. Which services there are is in `installation`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import structlog

from coreimage.errors import HostError
from coreimage.services.service import Service, becomes_ready, log_tail, running

log = structlog.get_logger("coreimage.up")

_READY_WITHIN_S = 180.0
_RESTART_AFTER_S = 5.0
_WATCH_EVERY_S = 1.0


class Supervisor:
    """The services that run as children of this process, in the order in which they were started."""

    def __init__(self, log_folder: Path, stop: threading.Event) -> None:
        self._log_folder, self._stop = log_folder, stop
        self._kept: list[_KeptService] = []

    def start(self, service: Service) -> None:
        """Start a service and wait until it is ready.

        Raises:
            HostError: The service does not become ready; the message quotes its log.
            KeyboardInterrupt: The supervisor was told to stop meanwhile.
        """
        log_path = self._log_folder / f"{service.name}.log"
        kept = _KeptService(service, log_path)
        self._kept.append(kept)
        if becomes_ready(service, kept.child, within_s=_READY_WITHIN_S, is_cancelled=self._stop.is_set):
            return
        kept.end()
        if self._stop.is_set():
            raise KeyboardInterrupt
        raise HostError(f"{service.name} does not start{log_tail(log_path)}", where=str(log_path))

    def keep_running(self) -> None:
        """Restart services that end by themselves, until the supervisor is told to stop."""
        while not self._stop.wait(_WATCH_EVERY_S):
            for kept in self._kept:
                kept.restart_if_ended()

    def end(self) -> None:
        """End all services, the last started first: those that need others end before them."""
        while self._kept:
            self._kept.pop().end()


@contextmanager
def supervising(log_folder: Path) -> Iterator[Supervisor]:
    """Yield a supervisor that SIGTERM and SIGINT stop, and whose services end with the block.

    Enter it in the main thread, where Python handles signals.
    """
    stop = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    supervisor = Supervisor(log_folder, stop)
    try:
        yield supervisor
    finally:
        supervisor.end()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)


class _KeptService:
    """A service and its present child; a pause before each restart keeps a broken one from spinning."""

    def __init__(self, service: Service, log_path: Path) -> None:
        self._service, self._log_path = service, log_path
        self._process, self._restart_at_s = ExitStack(), 0.0
        self.child = self._process.enter_context(running(service, log_path))

    def restart_if_ended(self) -> None:
        if self.child.running():
            return
        if not self._restart_at_s:
            log.warning(
                f"{self._service.name} ended; it is started again in {_RESTART_AFTER_S:g} s", log=str(self._log_path)
            )
            self._restart_at_s = time.monotonic() + _RESTART_AFTER_S
        elif time.monotonic() > self._restart_at_s:
            self._process.close()
            self.child = self._process.enter_context(running(self._service, self._log_path))
            self._restart_at_s = 0.0

    def end(self) -> None:
        self._process.close()
