"""What an installation does between builds, over a real tree: promotion, retention, signatures, the daily check."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prefect import flow, tags
from prefect.artifacts import Artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.context import FlowRunContext
from pydantic import ByteSize

from coreimage.errors import AttentionError
from coreimage.operations.health import low_disks
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage import open_store, put_blob_bytes
from coreimage.system_image import ChannelTree, publish_keyrings, verify_store
from coreimage.system_image.channels.document import read_channels, read_index
from flows.promotion import promote_channel
from flows.upkeep import (
    check_installation,
    collect_garbage,
    expire_channel,
    forget_old_runs,
    renew_signatures,
)
from tasks.site import Site
from tasks.system_image import newest_version
from tests.harness.product import small_keys
from tests.harness.trees import CHANNEL, DEVICE, now, released
from tests.harness.workshop import project

STABLE = "debian-core/13/stable"
PROMOTION = """
  debian-core/13/stable:
    series: "13"
    devices: [generic_amd64]
    promotion: {source: debian-core/13/edge, min_age_hours: AGE, schedule: {cron: "0 6 * * *"}}
"""
DEBIAN_CORE = Path(project("small.yaml")).parents[2] / "deployments/debian-core.yaml"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    keys, store = small_keys(tmp_path / "keys"), open_store(str(tmp_path / "store"))
    signer = GnupgSigner(keys)
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    monkeypatch.setenv("COREIMAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COREIMAGE_KEYS", str(keys))
    monkeypatch.setenv("COREIMAGE_PROJECT", str(tmp_path / "project.yaml"))
    return Site.here()


def test_what_stood_long_enough_is_taken_over_once(site: Site, tmp_path: Path) -> None:
    text = DEBIAN_CORE.read_text()
    (tmp_path / "project.yaml").write_text(text + PROMOTION.replace("AGE", "24"))
    promote_channel(STABLE)
    assert newest_version(STABLE, DEVICE, site) == 0, "it is too young"
    (tmp_path / "project.yaml").write_text(text + PROMOTION.replace("AGE", "0"))
    promote_channel(STABLE)
    assert newest_version(STABLE, DEVICE, site) == 1
    promote_channel(STABLE)
    assert newest_version(STABLE, DEVICE, site) == 1, "what is there is not published again"
    released(site.store(), site.signer(), "20261124", b"two")
    assert newest_version(CHANNEL, DEVICE, site) == 2
    promote_channel(STABLE)
    assert newest_version(STABLE, DEVICE, site) == 2


def test_old_versions_go_and_the_tree_stays_whole(site: Site, tmp_path: Path) -> None:
    text = DEBIAN_CORE.read_text().replace("{keep_count: 10, keep_days: 14}", "{keep_count: 1, keep_days: 0}")
    (tmp_path / "project.yaml").write_text(text)
    released(site.store(), site.signer(), "20261124", b"two")
    assert len(versions(site)) == 2
    expire_channel(CHANNEL, dry_run=True)
    assert len(versions(site)) == 2, "a dry run does nothing"
    expire_channel(CHANNEL)
    renew_signatures("debian-core")
    assert len(versions(site)) == 1
    assert newest_version(CHANNEL, DEVICE, site) == 2
    archive_master = make_keyring("archive-master", site.signer().public_key(Role.ARCHIVE_MASTER))
    assert verify_store(site.store(), archive_master).errors == ()


def test_what_nobody_needs_goes_and_is_listed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREIMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COREIMAGE_TOOLS_BUDGET", "0")
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "records"))
    tree = tmp_path / "cache/tools" / ("a" * 64)
    tree.mkdir(parents=True)
    (tree / "program").write_bytes(b"old")
    old = put_blob_bytes(site.store(), b"a package of long ago", "text/plain")
    os.utime(tmp_path / "store" / old.uri, (1, 1))
    assert collect_garbage("debian-core", max_size=ByteSize(0), dry_run=True) == 1
    assert site.store().head(old.uri)
    assert tree.exists()
    assert collect_garbage("debian-core", max_size=ByteSize(0)) == 1
    assert site.store().head(old.uri) is None
    assert not tree.exists()
    artifact = cast("Any", Artifact.get("garbage-debian-core"))
    listed = json.loads(artifact.data)
    assert [row["object"] for row in listed if row["object"].startswith(("blobs", "tools"))] == [
        old.uri,
        f"tools tree {'a' * 64}",
    ]


def versions(site: Site) -> set[int]:
    tree = site.channel_tree()
    return {image.version for image in read_index(tree.store, read_channels(tree).channels, CHANNEL, DEVICE).images}


def test_old_runs_are_forgotten_with_their_artifacts_and_others_are_not(site: Site) -> None:
    with get_client(sync_client=True) as client:
        mine, other = (tagged_run(project) for project in ("mine", "other"))
        assert forget_old_runs("mine", days=1) == 0, "they have just ended"
        assert forget_old_runs("mine", days=0) == 1
        for run, there in ((mine, False), (other, True)):
            of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
            assert bool(client.read_flow_runs(flow_run_filter=of_run)) is there
            found = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
            )
            assert bool(found) is there


@flow
def show_something() -> UUID:
    create_markdown_artifact("something")
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def tagged_run(project: str) -> UUID:
    with tags(f"project:{project}"):
        return show_something()


def test_keys_that_end_and_full_disks_are_told_before_they_hurt(site: Site, tmp_path: Path) -> None:
    text = DEBIAN_CORE.read_text()
    (tmp_path / "project.yaml").write_text(text + "maintenance: {free_disk_gb: 0}\n")
    check_installation("debian-core")
    (tmp_path / "project.yaml").write_text(text + "maintenance: {free_disk_gb: 0, key_expiry_days: 800}\n")
    with pytest.raises(AttentionError, match="image-signing keyring ends on"):
        check_installation("debian-core")
    (told,) = low_disks(10**6, [tmp_path])
    assert "less than 1e+06 GB" in told
