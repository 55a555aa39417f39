"""SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, whatever it is doing.

Python runs signal handlers between bytecodes, and a signal breaks off a blocking system call. But a signal that comes
after the last bytecode and before the call (a long time on a busy machine) would wait until that call ends, which may
take minutes. So a thread reads the signal's number from the wake-up descriptor, and sends the signal again until the
main thread's handler has run.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SEND_AGAIN_AFTER_S = 0.2


def raise_interrupts() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; a signal that is ignored, as in the background, stays ignored.

    To be called once, in the main thread.
    """
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
    threading.Thread(target=_send_again_until_seen, args=(reading, seen), name="interrupts", daemon=True).start()


def _send_again_until_seen(reading: int, seen: threading.Event) -> None:
    main = threading.main_thread().ident
    while numbers := os.read(reading, 64):
        for number in set(numbers).intersection(SIGNALS):
            while not seen.wait(_SEND_AGAIN_AFTER_S):
                signal.pthread_kill(main or 0, number)
        if seen.is_set():
            # Signals that were sent again have written their numbers, too.
            os.set_blocking(reading, False)
            try:
                while os.read(reading, 64):
                    pass
            except BlockingIOError:
                os.set_blocking(reading, True)
            seen.clear()
