"""A manifest survives its file, and keeps what a newer release wrote into it."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.errors import UnprocessableError
from mlbuffet.manifest import ImageSettings, Manifest, Signature, TensorSpec, check_description

texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
specs = st.builds(
    TensorSpec, texts, st.sampled_from(["FP32", "INT64", "BYTES"]), st.lists(st.none() | st.integers(0, 9)).map(tuple)
)
signatures = st.builds(Signature, st.lists(specs).map(tuple), st.lists(specs).map(tuple))
channels = st.lists(numbers, max_size=4).map(tuple)
images = st.builds(
    ImageSettings, numbers, channels, channels.filter(lambda values: 0 not in values), st.lists(texts).map(tuple)
)
_KNOWN = {"model", "version", "digest", "size_bytes", "created", "source", "signature", "image", "notes", "golden"}
_KNOWN |= {"serving", "unloaded", "deterministic", "description", "model_type", "pinned", "idempotency_key", "unknown"}
_KNOWN |= {"run"}
unknown: st.SearchStrategy[Mapping[str, Any]] = st.dictionaries(
    texts.filter(lambda name: name not in _KNOWN), st.none() | st.integers(0, 9) | texts | st.lists(texts), max_size=3
)
manifests = st.builds(
    Manifest,
    model=texts,
    version=st.integers(1, 10**9),
    digest=st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    size_bytes=st.integers(0, 2**53),
    created=texts,
    source=texts,
    signature=signatures,
    description=texts,
    image=images,
    pinned=st.booleans(),
    idempotency_key=st.none() | texts,
    notes=st.lists(texts).map(tuple),
    golden=st.none() | st.dictionaries(texts, st.lists(st.integers(0, 9))),
    run=st.none() | st.dictionaries(texts, texts),
    unknown=unknown,
)


@given(manifests)
def test_round_trip(manifest: Manifest) -> None:
    assert Manifest.from_json(orjson.loads(orjson.dumps(manifest.to_json()))) == manifest


@given(manifests)
def test_d03_what_a_newer_version_has_written_stays_where_it_was(manifest: Manifest) -> None:
    written = orjson.loads(orjson.dumps(manifest.to_json()))
    newer = written | {"serving": written["serving"] | {"burst": [1]}, "image": written["image"] | {"gamma": 2.2}}
    read = Manifest.from_json(newer)
    assert (read.serving, read.image) == (manifest.serving, manifest.image)
    again = orjson.loads(orjson.dumps(read.changed(description="x").to_json()))
    assert again == newer | {"description": "x"}


@given(manifests, texts)
def test_a_change_keeps_everything_else(manifest: Manifest, description: str) -> None:
    changed = manifest.changed(description=description)
    assert changed.description == description
    assert changed.changed(description=manifest.description) == manifest
    assert changed.key == manifest.key


def test_the_key_tells_other_bytes_apart() -> None:
    data = {"model": "m", "version": 1, "size_bytes": 1, "created": "", "source": ""}
    data["signature"] = {"inputs": [], "outputs": []}
    keys = {Manifest.from_json(data | {"digest": f"sha256:{letter * 64}"}).key for letter in "ab"}
    assert keys == {b"m:1@" + b"a" * 16, b"m:1@" + b"b" * 16}


@pytest.mark.parametrize("data", [{}, {"model": "m"}, [], None, {"signature": 1}])
def test_what_is_no_manifest(data: Any) -> None:  # noqa: ANN401 - any JSON
    with pytest.raises((KeyError, TypeError, ValueError)):
        Manifest.from_json(data)


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | numbers | texts
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
spoilt = st.dictionaries(st.sampled_from(sorted(_KNOWN - {"unknown"})) | st.just("signature"), values, max_size=2)
axes = st.lists(values, max_size=2)
spoilt_specs = st.fixed_dictionaries({"name": values, "datatype": values, "shape": axes | values}) | values


@given(manifests, spoilt | values, spoilt_specs)
def test_z06_any_json_is_a_manifest_or_none(manifest: Manifest, other: Any, spec: Any) -> None:  # noqa: ANN401 - any JSON
    for data in (
        other,
        manifest.to_json() | other if isinstance(other, dict) else other,
        manifest.to_json() | {"signature": {"inputs": [spec], "outputs": []}},
    ):
        try:
            read = Manifest.from_json(data)
        except (KeyError, TypeError, ValueError, UnprocessableError):
            continue
        assert Manifest.from_json(orjson.loads(orjson.dumps(read.to_json()))) == read
        assert isinstance(read.key, bytes)
        assert all(isinstance(spec.name, str) for spec in (*read.signature.inputs, *read.signature.outputs))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"size": 1},
        {"scale": "1"},
        {"scale": True},
        {"scale": float("inf")},
        {"mean": 1},
        {"mean": [1, 2, 3, 4, 5]},
        {"std": [0]},
        {"std": [1, float("nan")]},
        {"labels": "ab"},
        {"labels": [1]},
    ],
)
def test_what_are_no_image_settings(data: object) -> None:
    with pytest.raises(UnprocessableError):
        ImageSettings.from_json(data)


def test_descriptions() -> None:
    assert check_description("ä" * 10_000) == "ä" * 10_000
    for bad in ("x" * 10_001, None, 1, b"x", ["x"]):
        with pytest.raises(UnprocessableError):
            check_description(bad)
