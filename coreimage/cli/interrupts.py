"""SIGINT and SIGTERM as KeyboardInterrupt, whatever the main thread is doing.

Python looks for signals between bytecodes, and system calls that a signal breaks off. One that comes after the last
look and before a call that blocks, which on a busy machine is a long time, would wait for the end of that call: of a
child that runs for minutes, or hangs. The signal's number also goes to the wake-up descriptor; a thread that reads it
sends the signal once more, until the main thread has seen it.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.2


def raise_interrupts() -> None:
    """For the main thread of a command. What is ignored, as SIGINT is in the background, stays ignored."""
    seen = threading.Event()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        seen.set()
        raise KeyboardInterrupt

    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    threading.Thread(target=_insist, args=(reading, seen), name="interrupts", daemon=True).start()


def _insist(reading: int, seen: threading.Event) -> None:
    main = threading.main_thread().ident
    while numbers := os.read(reading, 64):
        for number in set(numbers).intersection(SIGNALS):
            while not seen.wait(_AGAIN_S):
                signal.pthread_kill(main or 0, number)
        if seen.is_set():
            # What was sent again comes here too.
            os.set_blocking(reading, False)
            try:
                while os.read(reading, 64):
                    pass
            except BlockingIOError:
                os.set_blocking(reading, True)
            seen.clear()
