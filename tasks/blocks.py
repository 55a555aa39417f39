"""Our own kinds of Prefect blocks, which servers and workers load by the entry point `prefect.collections`.

`ArtifactResults` keeps the results of tasks in the store, so that any worker finds the results of the others. Without
it (setting `PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK`) results stay below PREFECT_HOME.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from prefect.blocks.notifications import AbstractAppriseNotificationBlock
from prefect.filesystems import WritableFileSystem
from pydantic import Field, SecretStr

from coreimage.errors import UsageError
from coreimage.model import JSON
from coreimage.operations.garbage import RESULTS
from coreimage.storage import Store
from tasks.site import STORE, known_store

RESULTS_BLOCK = "artifact-results/main"
"""The slug and name of the block, as the setting names it."""


class ArtifactResults(WritableFileSystem):
    """A place for the results of tasks: the objects `results/<cache key>` of the store that artifacts are in."""

    _block_type_name = "Artifact results"
    _block_type_slug = "artifact-results"

    store_url: str = Field(
        default="", description="file:///DIR or s3://BUCKET/PREFIX; empty for COREIMAGE_STORE of the worker."
    )

    def _store(self) -> Store:
        url = self.store_url or os.environ.get(STORE, "")
        if not url:
            raise UsageError(
                "the block names no store", where=RESULTS_BLOCK, resolution=f"set {STORE} where the worker is started"
            )
        return known_store(url)

    def read_path(self, path: str, **_: Any) -> bytes:  # type: ignore[override]
        with self._store().open(f"{RESULTS}{path}") as file:
            return file.read()

    def write_path(self, path: str, content: bytes, **_: Any) -> None:  # type: ignore[override]
        self._store().put_bytes(f"{RESULTS}{path}", content, media_type=JSON)

    async def aread_path(self, path: str) -> bytes:
        return await anyio.to_thread.run_sync(self.read_path, path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        await anyio.to_thread.run_sync(self.write_path, path, content)


class Mail(AbstractAppriseNotificationBlock):
    """A mail server that sends the notifications of Prefect's automations."""

    _block_type_name = "Mail"
    _block_type_slug = "mail"

    server: str
    port: int = 587
    encryption: str = Field(default="starttls", description="starttls, tls or none")
    sender: str
    recipients: list[str]
    user: str = ""
    password: SecretStr = SecretStr("")

    def block_initialization(self) -> None:
        self._start_apprise_client(SecretStr(self._address()))

    def _address(self) -> str:
        """Return the address of the mail server in Apprise's form, `mailto[s]://user:password@host:port?…`."""
        login = f"{quote(self.user, safe='')}:{quote(self.password.get_secret_value(), safe='')}@" if self.user else ""
        scheme = "mailto" if self.encryption == "none" else "mailtos"
        mode = "" if self.encryption == "none" else f"&mode={'ssl' if self.encryption == 'tls' else 'starttls'}"
        to = quote(",".join(self.recipients), safe="@,")
        sender = quote(self.sender, safe="@")
        return f"{scheme}://{login}{self.server}:{self.port}/?smtp={self.server}&from={sender}&to={to}{mode}"
