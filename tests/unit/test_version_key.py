from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.manifest import Manifest, Signature, read_key

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(names, st.integers(1, 999_999_999), st.from_regex(r"[0-9a-f]{64}", fullmatch=True))
def test_a_key_reads_back_as_what_it_names(name: str, version: int, digest: str) -> None:
    manifest = Manifest(name, version, f"sha256:{digest}", 1, "2026-01-01T00:00:00Z", "upload", Signature((), ()))
    assert read_key(manifest.key) == (name, version)
    assert digest[:16].encode() in manifest.key
    assert digest[16:].encode() not in manifest.key


@given(st.binary(max_size=100))
def test_any_bytes_are_a_key_or_none(key: bytes) -> None:
    found = read_key(key)
    assert found is None or (isinstance(found[0], str) and found[1] >= 0)


def test_what_is_no_key() -> None:
    for key in (b"", b"x", b"x:", b"x:y", b"x:-1@d", b"x@1", b":@", b"x:\xb2@d", b"x:" + b"9" * 5000):
        assert read_key(key) is None
