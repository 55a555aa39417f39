"""Rootfs builds by somebody else on this machine, and what a script in one looks for and must not find."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from coreimage.host.process import run
from coreimage.model import RootfsBuild
from coreimage.storage import open_store, read_blob
from tests.harness.ordinary_user import ROOT_DIR, as_ordinary_user

_QUIET = "import structlog; structlog.configure(logger_factory=structlog.ReturnLoggerFactory())\n"

_SEARCH = """
for root in / /proc/[0-9]*/root/ /proc/[0-9]*/cwd/; do
    for name in {secret} {repository}; do [ -e "$root$name" ] && echo "FOUND $root$name"; done
done
"""


def built_by_stranger(imports: str, expression: str, home: Path, *words: str) -> RootfsBuild:
    """What `expression` (Python that sees `argv`) gives an ordinary user with another umask and time zone than ours."""
    strange = ["sh", "-c", 'umask 077; export TZ=Asia/Tokyo; exec "$@"', "sh"]
    code = f"{_QUIET}{imports}\nfrom sys import argv\nfrom pathlib import Path\nprint(({expression}).model_dump_json())"
    argv = as_ordinary_user([*strange, sys.executable, "-c", code, *words], home)
    output = run(argv, cwd=home, env={"PYTHONPATH": str(ROOT_DIR)}).output
    return RootfsBuild.model_validate_json(output.splitlines()[-1])


def search(secret: Path) -> str:
    """Shell that says FOUND for the secret and for this checkout, wherever it can see them."""
    return _SEARCH.format(secret=secret, repository=ROOT_DIR)


def text_in(built: RootfsBuild, name: str, store_url: str) -> str:
    """A file of the rootfs."""
    with tarfile.open(fileobj=io.BytesIO(read_blob(open_store(store_url), built.rootfs))) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read().decode()
