"""A limit for how long a server may take to send something: when it is over, the connection is cut.

The time limits of sockets are for single reads: a server that sends a byte now and then, or one interim answer after
the other, would hold a client for ever.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

_current: ContextVar[Watch | None] = ContextVar("watch", default=None)


class Watch:
    """Cuts the connections that are opened or used in its block when `passed` is not called for `stall_s` seconds.

    Args:
        stall_s: How long the next step may take.
        end_s: When everything must be over, by the clock of `time.monotonic`.
    """

    def __init__(self, stall_s: float, end_s: float) -> None:
        self._stall_s, self._end_s = stall_s, end_s
        self._sockets: list[socket.socket] = []
        self._lock, self._done = threading.Lock(), threading.Event()
        self._is_over = False
        self.passed()

    @property
    def is_over(self) -> bool:
        """Whether the connections were cut, so that what was read last may have a part only."""
        return self._is_over

    def passed(self) -> None:
        """Begin the time for the next step."""
        self._deadline_s = min(time.monotonic() + self._stall_s, self._end_s)

    def take(self, connected: socket.socket) -> None:
        """Cut this connection, too, when the time is over."""
        # A descriptor of its own: TLS takes the first one over, and it may be closed at any time.
        twin = socket.socket(fileno=os.dup(connected.fileno()))
        with self._lock:
            self._sockets.append(twin)
            if self._is_over:
                _cut(twin)

    def __enter__(self) -> Watch:
        self._token = _current.set(self)
        self._guard = threading.Thread(target=self._run, daemon=True, name="watch of a download")
        self._guard.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._guard.join()
        _current.reset(self._token)
        for twin in self._sockets:
            twin.close()

    def _run(self) -> None:
        while not self._done.wait(max(0.0, self._deadline_s - time.monotonic())):
            if time.monotonic() >= self._deadline_s:
                with self._lock:
                    self._is_over = True
                    for twin in self._sockets:
                        _cut(twin)
                return


def _cut(twin: socket.socket) -> None:
    with suppress(OSError):
        twin.shutdown(socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        if watch := _current.get():
            watch.take(connected)
        return connected

    def request(self, *arguments: Any, **options: Any) -> None:
        watch, connected = _current.get(), self.sock
        if watch and connected:
            watch.take(connected)
        super().request(*arguments, **options)


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        _watch_pools(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*arguments, **options)
        _watch_pools(manager)
        return manager


def _watch_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def watched_session() -> requests.Session:
    """Return a session whose connections the `Watch` of the calling thread can cut. It keeps no cookies."""
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session
