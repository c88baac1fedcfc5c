"""Names are an allow-list; a reference always means one model and at most one version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.errors import InvalidNameError, MLBuffetError, UnsupportedTypeError, VersionNotFoundError
from mlbuffet.names import FOREIGN_SUFFIXES, RESERVED, ModelRef, check_name, is_model_name, is_version, parse_ref

ALLOWED = "ABCXYZabcxyz0189._-"
names = st.text(ALLOWED, min_size=1, max_size=64).filter(is_model_name)


@pytest.mark.parametrize("name", ["a", "0", "iris.onnx", "v1.2_x-3", "x" * 64, "A.", "a-_", "7.0.0-rc.1"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "-a",
        "_a",
        "x" * 65,
        "a b",
        "a/b",
        "a\\b",
        "a:b",
        "a\n",
        "ä",
        "a\u202eb",
        "a\x00",
        "%41",
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_name(name)


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_words_of_the_api_are_no_names(word: str) -> None:
    for name in (word, word.upper()):
        with pytest.raises(InvalidNameError):
            check_name(name)


@pytest.mark.parametrize("suffix", sorted(FOREIGN_SUFFIXES))
def test_suffixes_of_other_formats(suffix: str) -> None:
    for name in (f"model.{suffix}", f"model.{suffix.upper()}", f"model.onnx.{suffix}"):
        with pytest.raises(UnsupportedTypeError):
            check_name(name)
    assert check_name(suffix) == suffix
    assert check_name(f"{suffix}.onnx") == f"{suffix}.onnx"


@given(st.text(max_size=80))
def test_a_name_is_always_one_step_below_its_folder(text: str) -> None:
    if is_model_name(text):
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set("/\\: %")
        assert text not in {".", ".."}
        assert not text.startswith(".")


@given(names, st.integers(1, 999_999_999))
def test_references_round_trip(name: str, version: int) -> None:
    try:
        check_name(name)
    except MLBuffetError:
        return
    for ref in (ModelRef(name), ModelRef(name, version)):
        assert parse_ref(str(ref)) == ref
    assert parse_ref(f"{name}:default") == ModelRef(name)


@pytest.mark.parametrize("version", ["", "0", "01", "-1", "+1", "1.0", "latest", "DEFAULT", "1:1", "²", "1" * 10, " 1"])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(VersionNotFoundError):
        parse_ref(f"iris.onnx:{version}")
    assert not is_version(version)


@given(st.text(max_size=100))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        ref = parse_ref(text)
    except (InvalidNameError, UnsupportedTypeError, VersionNotFoundError):
        return
    assert is_model_name(ref.name)
