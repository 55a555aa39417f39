"""What is signed again and what stays, with keys in memory; GnuPG itself is tested in tests/integration."""

from __future__ import annotations

import pytest

from coreimage.errors import VerificationError
from coreimage.signing import Role, name_object, says, signs
from coreimage.storage import read_bytes
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore

KEY, DOCUMENT = "oem/pc.json", b'{"name": "pc"}'


def test_a_signature_counts_when_the_key_that_signs_now_made_it() -> None:
    signer, former = MemorySigner(), MemorySigner(generation="former")
    signature = signer.detached(Role.CDIMAGE, b"content")
    assert signs(signature, b"content", Role.CDIMAGE, signer)
    assert not signs(None, b"content", Role.CDIMAGE, signer)
    assert not signs(signature, b"other", Role.CDIMAGE, signer)
    assert not signs(signature, b"content", Role.IMAGE_SIGNING, signer)
    assert not signs(former.detached(Role.CDIMAGE, b"content"), b"content", Role.CDIMAGE, signer)


def test_a_signature_by_a_key_that_counts_but_no_longer_signs_is_made_again() -> None:
    class Switched(MemorySigner):
        """The former key counts beside the one that signs now."""

        def verify(self, *arguments: object, **options: object) -> str:
            return MemorySigner(generation="former").fingerprint(Role.CDIMAGE)

    assert not signs(b"signature", b"content", Role.CDIMAGE, Switched())


def test_a_message_says_exactly_its_document() -> None:
    signer = MemorySigner()
    message = signer.inline(Role.IMAGE_SIGNING, DOCUMENT)
    assert says(message, DOCUMENT, signer)
    assert not says(message, DOCUMENT + b" ", signer)
    assert not says(signer.inline(Role.CDIMAGE, DOCUMENT), DOCUMENT, signer)


def test_an_object_is_named_once_and_again_for_another_document_or_key() -> None:
    store, signer = MemoryStore(), MemorySigner()
    assert name_object(KEY, DOCUMENT, store=store, signer=signer)
    written = store.head(KEY)
    assert not name_object(KEY, DOCUMENT, store=store, signer=signer)
    assert store.head(KEY) == written
    assert name_object(KEY, b"other", store=store, signer=signer)
    assert name_object(KEY, b"other", store=store, signer=MemorySigner(generation="next"))
    with pytest.raises(VerificationError):
        signer.open_inline(Role.IMAGE_SIGNING, read_bytes(store, KEY) or b"")
