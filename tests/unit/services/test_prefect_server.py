"""The start of a Prefect server: a slow one is waited for, one that ends is started again. No Prefect is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from coreimage.errors import HostError
from coreimage.services import prefect_server as servers
from coreimage.services.service import Service


@pytest.mark.parametrize(
    ("argv", "within_s", "starts"),
    [
        pytest.param(("sleep", "60"), 0.2, 1, id="a slow server is not replaced"),
        pytest.param(("true",), 60.0, 3, id="a server that ends is started again"),
    ],
)
def test_only_a_server_that_ends_is_started_again(
    argv: tuple[str, ...], within_s: float, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = []

    def never_ready(port: int, environment: Mapping[str, str]) -> Service:
        ports.append(port)
        return Service(name="prefect", argv=argv, environment={}, is_ready=lambda: False)

    monkeypatch.setattr(servers, "_service", never_ready)
    monkeypatch.setattr(servers, "_READY_WITHIN_S", within_s)
    with pytest.raises(HostError, match="did not become ready"), servers.prefect_server(tmp_path, {}):
        pass
    assert len(ports) == starts
