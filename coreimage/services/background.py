"""A process that outlives the command: in its own session, without a terminal, its output in a log file."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from coreimage.errors import CoreimageError, HostError

_READY = "ready"


def run_in_background(action: Callable[[Callable[[], None]], None], log_path: Path) -> None:
    """Run `action` in a process of its own, and return as soon as it calls the function that it is given.

    Args:
        action: The function to run. It gets a function that it calls once, when it is ready.
        log_path: The file that its output and standard error are appended to.

    Raises:
        HostError: The process ended before it was ready; the message is that of its error.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _become_daemon(action, log_path, writing)
    os.close(writing)
    os.wait()
    with os.fdopen(reading) as answers:
        answer = answers.read()
    if answer != _READY:
        raise HostError(answer or "the background process ended before it was ready", resolution=f"see {log_path}")


def _become_daemon(action: Callable[[Callable[[], None]], None], log_path: Path, writing: int) -> NoReturn:
    # The second fork gives up the leadership of the session: no terminal can become its terminal again.
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    output = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)

    def answer(text: str) -> None:
        with suppress(OSError):
            os.write(writing, text.encode())
            os.close(writing)

    try:
        action(lambda: answer(_READY))
    except CoreimageError as error:
        answer(str(error))
    except BaseException as error:
        traceback.print_exc()
        answer(f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)
