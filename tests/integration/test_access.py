"""infra/s3: who may do what in a bucket, applied to a real server and tried on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from coreimage.errors import CoreimageError, HostError
from coreimage.host.process import run
from coreimage.model import PublishedBuild
from coreimage.pages import write_pages
from coreimage.publication import expire_builds, mark_good
from coreimage.signing import GnupgSigner
from coreimage.storage import Store, open_store, require_format
from coreimage.system_image import (
    ChannelTree,
    create_channel,
    import_build,
    promote,
    publish_keyrings,
    release_candidate,
)
from tests.harness.grown_tree import ARCHITECTURE, CHANNEL, DEVICE, START, TREE, publish_day
from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.s3 import S3Server

APPLY = ROOT_DIR / "infra/s3/apply"
WEB = ("index.html", "cdimage/x", "images/x", "oem/x", "system-image/x")
OWN = ("format.json", "blobs/x", "locks/x", "import-cache/x", "results/x")
WITHIN_S = 60.0


@dataclass(frozen=True)
class Bucket:
    """A bucket with the policies of infra/s3, and the keys of its roles."""

    server: S3Server
    url: str
    keys: dict[str, tuple[str, str]]

    @contextmanager
    def role(self, name: str) -> Iterator[Store]:
        """The bucket's store, as a role has it."""
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in self.server.environment().items():
                patch.setenv(variable, value)
            if name != "owner":
                patch.setenv("AWS_ACCESS_KEY_ID", self.keys[name][0])
                patch.setenv("AWS_SECRET_ACCESS_KEY", self.keys[name][1])
            yield open_store(self.url)


def apply(server: S3Server, url: str) -> dict[str, tuple[str, str]]:
    done = subprocess.run(
        [sys.executable, APPLY, url],
        env=server.environment() | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split()[0]: (line.split()[1], line.split()[2]) for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Bucket:
    """Policies are known to the server a moment after they were put."""
    name = f"roles-{uuid.uuid4().hex[:8]}"
    owner = boto3.session.Session().client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_server.environment()["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3_server.environment()["AWS_SECRET_ACCESS_KEY"],
    )
    owner.create_bucket(Bucket=name)
    made = Bucket(s3_server, f"s3://{name}/a", apply(s3_server, f"s3://{name}/a"))
    with made.role("owner") as store:
        require_format(store)
        for key in (*WEB, *OWN[1:]):
            store.put_bytes(key, b"x", media_type="text/plain")
    for role in made.keys:
        with made.role(role) as store:
            _await(lambda store=store: store.head("index.html") is not None)  # type: ignore[misc]
    _await(lambda: requests.get(_public(made, "index.html"), timeout=9).ok)
    return made


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not _holds(condition):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except CoreimageError:
        return False


def _public(bucket: Bucket, key: str) -> str:
    return f"{bucket.server.endpoint}/{bucket.url.removeprefix('s3://')}/{key}"


def test_everybody_reads_the_web_roots_and_nothing_else(bucket: Bucket) -> None:
    assert [requests.get(_public(bucket, key), timeout=9).status_code for key in WEB] == [200] * len(WEB)
    assert [requests.get(_public(bucket, key), timeout=9).status_code for key in OWN] == [403] * len(OWN)
    listing = f"{bucket.server.endpoint}/{bucket.url.split('/')[2]}"
    assert requests.get(listing, params={"list-type": "2"}, timeout=9).status_code == 403
    for method in ("PUT", "DELETE"):
        assert requests.request(method, _public(bucket, "system-image/x"), data=b"y", timeout=9).status_code == 403


@pytest.mark.parametrize(
    ("role", "refused"),
    [
        ("builder", ("system-image/x", "import-cache/x", "system-image/channels.json.gpg", "elsewhere")),
        ("importer", ("cdimage/x", "blobs/x", "locks/x", "images/x", "elsewhere")),
        (
            "promoter",
            (
                "system-image/pool/ubuntu-x.tar.xz",
                "system-image/gpg/image-signing.tar.xz",
                "import-cache/x",
                "cdimage/x",
            ),
        ),
    ],
)
def test_a_role_is_refused_what_it_may_not_do(bucket: Bucket, role: str, refused: tuple[str, ...]) -> None:
    with bucket.role("owner") as owner:
        before = {info.key: info.etag for info in owner.list()}
    with bucket.role(role) as store:
        for key in refused:
            with pytest.raises(HostError, match="refused us"):
                store.put_bytes(key, b"y", media_type="text/plain")
            with pytest.raises(HostError, match="refused us"):
                store.put_bytes(key, b"y", media_type="text/plain", if_absent=True)
            with pytest.raises(HostError, match="refused us"):
                store.copy("cdimage/x", key)
            if key in before:
                with pytest.raises(CoreimageError):
                    store.delete([key])
        assert store.head("blobs/x"), "it reads everything"
    with bucket.role("owner") as owner:
        assert {info.key: info.etag for info in owner.list()} == before


@pytest.mark.parametrize("role", ["builder", "importer", "promoter"])
def test_no_role_rules_the_bucket(bucket: Bucket, role: str) -> None:
    key, secret = bucket.keys[role]
    other = next(each for each in bucket.keys if each != role)
    name = bucket.url.split("/")[2]
    own = {"endpoint_url": bucket.server.endpoint, "region_name": "us-east-1"}
    s3 = boto3.session.Session(key, secret).client("s3", **own)  # type: ignore[call-overload]
    iam = boto3.session.Session(key, secret).client("iam", **own)  # type: ignore[call-overload]
    actions: tuple[Callable[[], object], ...] = (
        lambda: s3.delete_bucket_policy(Bucket=name),
        lambda: s3.put_bucket_policy(Bucket=name, Policy="{}"),
        lambda: s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": []}),
        lambda: s3.delete_bucket(Bucket=name),
        lambda: iam.create_access_key(UserName=f"coreimage-{other}"),
    )
    for action in actions:
        with pytest.raises(ClientError):
            action()


def test_each_role_can_do_its_work(bucket: Bucket, signer: GnupgSigner) -> None:
    """What the pipeline does, one role after the other: from a build to a promoted version, pages and retention."""
    now = START + timedelta(days=1)

    def clock() -> datetime:
        return now

    published: list[PublishedBuild] = []
    with bucket.role("builder") as store:
        require_format(store)
        published += [publish_day(store, signer, day) for day in (0, 1, 2)]
        mark_good(published[1], ARCHITECTURE, [], store=store, now=now)
    stable = "debian-core/13/stable"
    with bucket.role("importer") as store:
        tree = ChannelTree(store, signer, clock)
        require_format(store)
        publish_keyrings(tree)
        for build in published:
            candidate = import_build(tree, build, CHANNEL, DEVICE, run=run)
            release_candidate(tree, candidate)
        create_channel(tree, stable)
    with bucket.role("promoter") as store:
        tree = ChannelTree(store, signer, clock)
        require_format(store)
        assert promote(tree, CHANNEL, stable, DEVICE, version=1).version == 1
        assert promote(tree, CHANNEL, stable, DEVICE).version == 2, "with deltas of its own"
        write_pages(store=store, channels=[stable], trees=[])
    with bucket.role("builder") as store:
        assert expire_builds(TREE, keep_count=1, keep_days=1, store=store, now=START + timedelta(days=9)) == (
            "20261102",
        )
    assert json.loads(requests.get(_public(bucket, "system-image/channels.json"), timeout=9).content).keys() == {
        CHANNEL,
        stable,
    }


def test_applying_it_again_makes_no_second_user(bucket: Bucket) -> None:
    assert apply(bucket.server, bucket.url) == {}


def test_lifecycle_rules_are_the_servers(bucket: Bucket) -> None:
    owner = boto3.session.Session("coreimage-test", "not-a-secret").client(
        "s3", endpoint_url=bucket.server.endpoint, region_name="us-east-1"
    )
    rules = owner.get_bucket_lifecycle_configuration(Bucket=bucket.url.split("/")[2])["Rules"]
    wanted = json.loads(Path(APPLY.with_name("lifecycle.json")).read_text())["Rules"]
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules] == [
        rule["AbortIncompleteMultipartUpload"] for rule in wanted
    ]
