"""Both forms of a delta, applied by our client: what comes out is the tree that they were made for, whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings

from coreimage.client import RepositoryError
from coreimage.client.compact import HEADER_BYTES, MAGIC, PACKERS, DifferentBaseError, PatchedTree, added
from coreimage.client.folder import FolderTree, write_folder
from coreimage.client.layers import LayeredTree
from coreimage.client.tar import write_tar
from coreimage.client.tree import Tree, tree_sha256
from coreimage.deltas.byte_diff import subtracted
from coreimage.deltas.compact import make_compact
from coreimage.deltas.cpio import parts
from coreimage.deltas.legacy import NotExpressibleError, plan, write
from tests.harness.compressors import PythonTools, xz_run
from tests.harness.examples import examples
from tests.harness.random_trees import ACL_BYTES, DEFAULT_ACL, NOTE, Layers, look, pairs, tarball, unpack
from tests.unit.deltas.test_legacy import FILE, FOLDER, HARD, SOFT, tree

NO_TOOLS = PythonTools(packers=())
GZIP = PythonTools(packers=("gzip-6",))


class Pair:
    """Two images, each of tarballs; the folder is gone with the block."""

    def __init__(self, base: Sequence[bytes], target: Sequence[bytes]) -> None:
        self._opened = ExitStack()
        self.folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        self.base, self.target = self.tree(base), self.tree(target)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def tree(self, tars: Sequence[bytes], base: Tree | None = None) -> LayeredTree:
        opened = [self._opened.enter_context(tarfile.open(fileobj=io.BytesIO(tar))) for tar in tars]  # noqa: SIM115
        return LayeredTree(opened, base=base)

    def delta(self, tools: PythonTools = NO_TOOLS) -> Path:
        work = self.folder / "made"
        work.mkdir(exist_ok=True)
        made = self.folder / "image.delta"
        return make_compact(self.base, self.target, made, work, tools=tools, run=xz_run)

    def applied(self, delta: Path, base: Tree | None = None, tools: PythonTools = NO_TOOLS) -> PatchedTree:
        work = Path(tempfile.mkdtemp(dir=self.folder))
        return PatchedTree(delta, base or self.base, work, tools.require)

    def legacy(self) -> list[bytes]:
        made = []
        for layer in plan(self.base, self.target, 2):
            plain = io.BytesIO()
            if layer.removed:
                write(layer, self.target, plain)
                made.append(plain.getvalue())
        return made


def same(tree: Tree, wanted: LayeredTree) -> bool:
    found = list(tree.entries())
    assert found == list(wanted.entries())
    return tree_sha256(found) == wanted.sha256()


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pairs())
def test_applied_to_the_base_it_makes_the_target(drawn: tuple[Layers, Layers]) -> None:
    old, new = ([tarball(members) for members in layers] for layers in drawn)
    with Pair(old, new) as pair:
        made = pair.applied(pair.delta(GZIP), tools=GZIP)
        assert same(made, pair.target)
        try:
            forms: dict[str, Tree] = {"compact": made, "legacy": pair.tree(pair.legacy(), base=pair.base)}
        except NotExpressibleError:
            event("not expressible in the form of 2015")
            forms = {"compact": made}
        unpacked = pair.folder / "unpacked"
        for tar in new:
            unpack(tar, unpacked)
        for name, tree_made in forms.items():
            folder, packed = pair.folder / name, io.BytesIO()
            folder.mkdir()
            write_folder(tree_made, folder)
            assert look(folder) == look(unpacked)
            write_tar(tree_made, packed)
            assert same(pair.tree([packed.getvalue()]), pair.target)


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pairs())
def test_a_folder_is_a_base_as_good_as_its_tarballs(drawn: tuple[Layers, Layers]) -> None:
    with Pair(*([tarball(members) for members in layers] for layers in drawn)) as pair:
        folder = pair.folder / "base"
        folder.mkdir()
        write_folder(pair.base, folder)
        assert same(FolderTree(folder), pair.base)
        assert same(pair.applied(pair.delta(), FolderTree(folder)), pair.target)


def pair_of(old: bytes, new: bytes) -> Pair:
    return Pair([tree(("system/a", FILE, old))], [tree(("system/a", FILE, new))])


def test_the_same_bytes_every_time_and_little_for_a_little() -> None:
    old = bytes(range(256)) * 400
    new = old[:5000] + b"changed" + old[5003:] + b"end"
    with pair_of(old, new) as pair:
        made = pair.delta().read_bytes()
        assert pair.delta().read_bytes() == made
        assert len(made) < 1000


def test_renamed_with_other_content_costs_little() -> None:
    noise = hashlib.shake_256(b"noise").digest(60000)
    old = tree(("system/lib/6.1.0-50/a.ko", FILE, noise), ("system/lib/6.1.0-50/b.ko", FILE, noise[::-1]))
    new = tree(("system/lib/6.1.0-56/a.ko", FILE, noise + b"!"), ("system/lib/6.1.0-56/b.ko", FILE, noise[::-1]))
    with Pair([old], [new]) as pair:
        made = pair.delta()
        assert made.stat().st_size < 1500
        assert same(pair.applied(made), pair.target)


def cpio(**members: bytes) -> bytes:
    made = b""
    for name, content in (*members.items(), ("TRAILER!!!", b"")):
        fields = (0, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        made += head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
    return made


def test_parts_of_an_archive_are_all_of_it() -> None:
    content = cpio(a=b"early") + bytes(300) + cpio(b=b"late", c=b"") + b"\x1f\x8b\x08rest"
    found = list(parts(content))
    assert b"".join(content[part.start : part.start + part.size_bytes] for part in found) == content
    assert [part.name for part in found if part.name and not part.name.startswith(b"#")] == [b"a", b"b"]


def initrd(*contents: bytes) -> bytes:
    return gzip.compress(cpio(**{f"m{number}": content for number, content in enumerate(contents)}), 6, mtime=0)


def test_an_initrd_repeats_nothing_of_the_tree() -> None:
    """Only where packing it again with the tools of the base gives the same bytes."""
    noise, *big = (hashlib.shake_256(bytes([seed])).digest(size) for seed, size in ((1, 70), (2, 30000), (3, 30000)))
    old = tree(("assets/initrd.img", FILE, initrd(*big)), ("system/k.ko", FILE, big[0]))
    changed = big[0][:500] + noise + big[0][500:]
    new = tree(("assets/initrd.img", FILE, initrd(changed, big[1])), ("system/k.ko", FILE, changed))
    tools = PythonTools(packers=("gzip-6",))
    with Pair([old], [new]) as pair:
        inside, whole = pair.delta(tools).read_bytes(), pair.delta(NO_TOOLS).stat().st_size
        assert len(inside) < 2000 < whole
        (pair.folder / "image.delta").write_bytes(inside)
        assert same(pair.applied(pair.folder / "image.delta", tools=tools), pair.target)
        other = PythonTools(packers=("gzip-9",), as_if=1)
        with pytest.raises(RepositoryError):
            pair.applied(pair.folder / "image.delta", tools=other)


def test_another_base_is_refused_before_anything_is_made() -> None:
    with pair_of(b"old", b"new") as pair, pytest.raises(DifferentBaseError):
        pair.applied(pair.delta(), pair.target)


def test_a_delta_that_makes_something_else_is_refused() -> None:
    """Whole, well-formed and for this base: only the digest of the result tells."""
    with pair_of(b"old", b"new") as pair:
        head = f'"base":"{pair.base.sha256()}","result":"{pair.target.sha256()}"'
        with pytest.raises(RepositoryError, match="does not make the tree"):
            pair.applied(with_manifest(pair, f'{{{head},"removed":[],"unpack":{{}},"changed":[]}}'.encode()))


@pytest.mark.parametrize("at", [0, 30, HEADER_BYTES + 20, -10])
def test_a_damaged_delta_is_refused(at: int) -> None:
    with pair_of(bytes(range(256)) * 9, bytes(range(256)) * 9 + b"more") as pair:
        content = bytearray(pair.delta().read_bytes())
        content[at] ^= 0x55
        damaged = pair.folder / "damaged"
        damaged.write_bytes(content)
        with pytest.raises(RepositoryError):
            pair.applied(damaged)


def with_manifest(pair: Pair, manifest: bytes) -> Path:
    sections = [lzma.compress(part) for part in (manifest, b"", b"", b"")]
    made = pair.folder / "hostile"
    made.write_bytes(MAGIC + b"".join(len(part).to_bytes(8) for part in sections) + b"".join(sections))
    return made


@pytest.mark.parametrize(
    "change",
    [
        '{"n":"../x","s":0,"c":[]}',
        '{"n":"system/a/../../x","s":0,"c":[]}',
        '{"b":99}',
        '{"b":-1}',
        '{"n":"x","s":1,"c":[["z","sh -c true",[1]]]}',
        '{"n":"x","s":1,"c":[["k",["u",1,0,1]]]}',
        '{"n":"x","s":1,"c":[["k",["r","later"]]]}',
        '{"n":"x","s":1,"c":[["k",["b",0]]]}',
        '{"n":"x","s":99999999999999,"c":[99999999999999]}',
        '{"n":"x","k":"socket"}',
        '{"n":"x"}',
        "[]",
        "7",
    ],
)
def test_hostile_manifests_are_refused(change: str) -> None:
    with pair_of(b"old", b"new") as pair:
        head = f'{{"base":"{pair.base.sha256()}","result":"{pair.target.sha256()}","removed":[],"unpack":{{}}'
        with pytest.raises(RepositoryError):
            pair.applied(with_manifest(pair, f'{head},"changed":[{change}]}}'.encode()))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    with Pair([], [tree(("system", SOFT, str(tmp_path)), ("system/x", FILE, b"x"))]) as pair:
        folder = pair.folder / "out"
        folder.mkdir()
        with pytest.raises(RepositoryError):
            write_folder(pair.target, folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("mode", "attribute"), [(0o2755, NOTE), (0o755, DEFAULT_ACL)])
def test_a_folder_hands_nothing_down_that_is_not_said(mode: int, attribute: str) -> None:
    made = layer(mode, attribute)
    with Pair([], [made]) as pair:
        folder = pair.folder / "out"
        folder.mkdir()
        write_folder(pair.target, folder)
        assert same(FolderTree(folder), pair.target)


@pytest.mark.parametrize("attribute", [NOTE, DEFAULT_ACL])
def test_a_folder_that_loses_an_attribute_has_no_delta_of_2015(attribute: str) -> None:
    with Pair([layer(0o755, attribute)], [layer(0o755, "")]) as pair:
        with pytest.raises(NotExpressibleError, match="loses an attribute"):
            pair.legacy()
        assert same(pair.applied(pair.delta()), pair.target)


def layer(mode: int, attribute: str) -> bytes:
    """A folder of another group, with a file, a folder and a pipe of root's."""
    members = []
    for name, kind in ((b"", FOLDER), (b"/file", FILE), (b"/folder", FOLDER), (b"/pipe", tarfile.FIFOTYPE)):
        member = tarfile.TarInfo(f"system{name.decode()}")
        member.type, member.mode, member.gid = kind, 0o755 if name else mode, 0 if name else 50
        member.pax_headers = {attribute: ACL_BYTES.decode("utf-8", "surrogateescape")} if attribute and not name else {}
        members.append((member, b""))
    return tarball(members)


def test_removed_and_links_of_the_form_of_2015() -> None:
    old = tree(
        ("system/a", FILE, b"a"), ("system/b", HARD, "system/a"), ("system/d", FOLDER, b""), ("system/d/x", FILE, b"x")
    )
    new = tree(("system/b", FILE, b"a"), ("system/d", FILE, b"now a file"))
    with Pair([old], [new, tree(("system", FOLDER, b""))]) as pair:
        assert same(pair.tree(pair.legacy(), base=pair.base), pair.target)


@pytest.mark.parametrize("name", sorted(PACKERS))
def test_packers_are_filters_of_the_base_image(name: str) -> None:
    assert PACKERS[name][0] in {"xz", "zstd", "gzip", "lz4"}


def test_adding_and_subtracting_bytes() -> None:
    old, new = bytes(range(256)), bytes(range(255, -1, -1))
    assert added(old, subtracted(new, old)) == new
    assert added(old, bytes(256)) == old
