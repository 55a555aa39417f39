from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# A signal that another thread gets is what one looks like that came just before the call that blocks.
_LOST = """
import os, signal, sys, threading
from coreimage.cli.interrupts import raise_interrupts
raise_interrupts()
reading, _ = os.pipe()
def lose():
    signal.pthread_kill(threading.get_ident(), int(sys.argv[1]))
for _ in range(2):
    threading.Timer(0.2, lose).start()
    try:
        os.read(reading, 1)
    except KeyboardInterrupt:
        print("seen", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_never_lost(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOST, str(int(number))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("seen\nseen\n", 0), done.stderr
