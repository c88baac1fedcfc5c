"""The index reads what lies in the folder, whoever put it there, and follows changes."""

from pathlib import Path

import orjson
import pytest

from mlbuffet.errors import ModelNotFoundError, VersionNotFoundError
from mlbuffet.generation import EVERYTHING, create_generation, raise_generation
from mlbuffet.index import Index, generation_file, read_manifest, read_model, version_folder
from mlbuffet.manifest import MANIFEST_FILE, Manifest, Signature
from mlbuffet.names import ModelRef


def _put(root: Path, name: str, version: int, *, default: bool = True, description: str = "") -> None:
    folder = version_folder(root, name, version)
    folder.mkdir(parents=True, exist_ok=True)
    digest = f"sha256:{version:064x}"
    manifest = Manifest(name, version, digest, 1, "", "test", Signature((), ()), description)
    (folder / MANIFEST_FILE).write_bytes(orjson.dumps(manifest.to_json()))
    if default:
        (root / name / "default").write_text(f"{version}\n")


BAD_IMAGE = orjson.dumps(
    Manifest("a", 1, "sha256:", 1, "", "", Signature((), ())).to_json() | {"image": {"scale": "large"}}
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".mlbuffet").mkdir()
    create_generation(generation_file(tmp_path))
    _put(tmp_path, "a", 1)
    _put(tmp_path, "a", 2)
    _put(tmp_path, "b", 7)
    return tmp_path


def test_what_lies_there_is_read(root: Path) -> None:
    index = Index(root)
    assert {name: (entry.default, set(entry.versions)) for name, entry in index.models().items()} == {
        "a": (2, {1, 2}),
        "b": (7, {7}),
    }
    assert index.manifest(ModelRef("a")).version == 2
    assert index.manifest(ModelRef("a", 1)).version == 1
    with pytest.raises(VersionNotFoundError):
        index.manifest(ModelRef("a", 3))
    with pytest.raises(ModelNotFoundError):
        index.model("c")


def test_only_what_was_announced_is_read_again(root: Path) -> None:
    index = Index(root)
    assert set(index.models()) == {"a", "b"}
    _put(root, "c", 1)
    _put(root, "a", 3)
    assert set(index.models()) == {"a", "b"}
    raise_generation(generation_file(root), "a")
    assert (set(index.models()), index.model("a").default) == ({"a", "b"}, 3)
    raise_generation(generation_file(root), EVERYTHING)
    assert set(index.models()) == {"a", "b", "c"}


def test_a_model_that_is_gone_is_forgotten(root: Path) -> None:
    index = Index(root)
    index.refresh()
    (root / "a").rename(root / ".mlbuffet" / "gone")
    raise_generation(generation_file(root), "a")
    assert set(index.models()) == {"b"}


def test_a_dictionary_once_handed_out_does_not_change(root: Path) -> None:
    index = Index(root)
    before = index.models()
    _put(root, "a", 3)
    raise_generation(generation_file(root), "a")
    assert index.models()["a"].default == 3
    assert before["a"].default == 2


@pytest.mark.parametrize("pointer", ["", "x", "9", "²", "-1"])
def test_a_pointer_to_nowhere_is_no_model(root: Path, pointer: str) -> None:
    (root / "a" / "default").write_text(pointer)
    assert read_model(root, "a") is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"{}", b"\xff", b'{"model": 1, "signature": []}', BAD_IMAGE]
)
def test_a_manifest_that_cannot_be_read_hides_its_version_only(root: Path, text: bytes) -> None:
    (version_folder(root, "a", 1) / MANIFEST_FILE).write_bytes(text)
    entry = Index(root).model("a")
    assert set(entry.versions) == {2}


def test_strange_entries_are_passed_over(root: Path) -> None:
    for name in ("²", "01", "0", "x", "9999999999"):
        (root / "a" / name).mkdir()
    (root / "a" / "4").touch()
    (root / "file").touch()
    (root / "no model").mkdir()
    (root / "empty").mkdir()
    assert {name: set(entry.versions) for name, entry in Index(root).models().items()} == {"a": {1, 2}, "b": {7}}


def test_a_copied_folder_goes_by_its_own_name(root: Path) -> None:
    _put(root, "a", 2)
    (root / "c" / "5").mkdir(parents=True)
    (root / "c" / "5" / MANIFEST_FILE).write_bytes((version_folder(root, "a", 2) / MANIFEST_FILE).read_bytes())
    manifest = read_manifest(root / "c" / "5")
    assert manifest is not None
    assert (manifest.model, manifest.version) == ("c", 5)
