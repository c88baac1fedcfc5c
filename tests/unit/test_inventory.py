"""What is loaded and what leaves, decided from the index and what is hosted now."""

from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest, Signature
from modelhost.inventory import default_keys, eviction_order, gone, wanted


def made(
    model: str, version: int, *, pinned: bool = False, unloaded: bool = False, created: str = "2026-01-01"
) -> Manifest:
    digest = f"sha256:{version:064x}"
    signature = Signature((), ())
    return Manifest(model, version, digest, 1, created, "upload", signature, pinned=pinned, unloaded=unloaded)


def entry(*versions: Manifest, default: int) -> ModelEntry:
    return ModelEntry(versions[0].model, default, {manifest.version: manifest for manifest in versions})


@dataclass
class Hosted:
    """What a decision looks at of a hosted version."""

    manifest: Manifest
    used_at: float = 0
    busy: int = 0
    state: str = "READY"
    extra: dict[str, object] = field(default_factory=dict)


def hosting(*versions: Hosted) -> Any:  # noqa: ANN401 - stands for a mapping of the real ones
    return cast("Any", {version.manifest.key: version for version in versions})


def test_defaults_and_pinned_versions_are_wanted_pinned_and_new_ones_first() -> None:
    models = [
        entry(made("a", 1), made("a", 2, created="2026-03-01"), made("a", 3), default=2),
        entry(made("b", 1, pinned=True), made("b", 2, created="2026-02-01"), default=2),
    ]
    names = [(manifest.model, manifest.version) for manifest in wanted(models)]
    assert names == [("b", 1), ("a", 2), ("b", 2)]
    assert wanted([]) == []


def test_what_an_operator_unloaded_is_not_wanted_and_leaves() -> None:
    off, pinned, other = made("a", 2, unloaded=True), made("a", 1, pinned=True, unloaded=True), made("b", 1)
    models = {"a": entry(pinned, off, default=2), "b": entry(other, default=1)}
    assert wanted(models.values()) == [other]
    assert default_keys(models) == {"b": other.key}
    keys = gone(hosting(Hosted(off), Hosted(pinned), Hosted(other)), default_keys(models), models, lambda _: True)
    assert keys == [off.key, pinned.key]


def unloaded(hosted: Hosted, before: Manifest, models: dict[str, ModelEntry], *, exists: bool = True) -> bool:
    keys = gone(hosting(hosted), {before.model: before.key}, models, lambda _: exists)
    assert keys in ([], [hosted.manifest.key])
    return bool(keys)


def test_a_superseded_version_leaves_and_a_pinned_or_explicitly_used_one_stays() -> None:
    old, new = made("a", 1), made("a", 2)
    models = {"a": entry(old, new, default=2)}
    assert unloaded(Hosted(old), old, models)
    assert not unloaded(Hosted(new), old, models)
    assert not unloaded(Hosted(old), new, models), "it was not the default: somebody asked for it by number"
    pinned = made("a", 1, pinned=True)
    assert not unloaded(Hosted(pinned), pinned, {"a": entry(pinned, new, default=2)})


def test_a_version_that_was_the_default_only_for_a_moment_leaves() -> None:
    first, second, third = made("a", 1), made("a", 2), made("a", 3)
    for before, now in ((first, third), (third, first)):
        assert unloaded(Hosted(second), before, {"a": entry(first, second, third, default=now.version)})
    models = {"a": entry(first, second, third, default=2)}
    assert not unloaded(Hosted(third), first, models), "it is about to be the default, or asked for by number"


def test_a_first_version_that_was_replaced_before_anybody_looked_leaves() -> None:
    """It was loaded when it was uploaded, at the inferrer's word."""
    first, second = made("a", 1), made("a", 2)
    keys = gone(hosting(Hosted(first), Hosted(second)), {}, {"a": entry(first, second, default=2)}, lambda _: True)
    assert keys == [first.key]


def test_a_deleted_version_leaves_and_the_same_name_made_anew_is_another() -> None:
    old, new = made("a", 1), made("a", 2)
    assert unloaded(Hosted(old), old, {}, exists=False)
    assert unloaded(Hosted(old), new, {"a": entry(new, default=2)}, exists=False)
    assert not unloaded(Hosted(new), new, {"a": entry(new, default=2)}, exists=False)


hosted_versions = st.lists(
    st.builds(
        lambda number, used, busy, state, pinned: Hosted(made(f"m{number}", 1, pinned=pinned), used, busy, state),
        st.integers(0, 50), st.floats(0, 100), st.integers(0, 2), st.sampled_from(["READY", "LOADING", "UNAVAILABLE"]),
        st.booleans(),
    ),
    unique_by=lambda version: version.manifest.key,
)  # fmt: skip


@given(hosted_versions)
def test_who_was_used_least_recently_leaves_first_and_nobody_in_use_or_pinned(versions: list[Hosted]) -> None:
    table = hosting(*versions)
    order = [table[key] for key in eviction_order(table)]
    assert [version.used_at for version in order] == sorted(version.used_at for version in order)
    free = [item for item in versions if not item.busy and not item.manifest.pinned and item.state == "READY"]
    assert len(order) == len(free)
    assert all(version in free for version in order)
