"""Who ended a runner is refused for a while, and only that."""

from modelhost.offenders import Offenders


def test_an_offender_is_refused_for_a_minute_and_nobody_else() -> None:
    offenders = Offenders()
    assert not offenders.until
    offenders.add(1, b"bad", 100.0)
    assert offenders.until
    assert offenders.refused_s(1, b"bad", 100.0) == 60
    assert offenders.refused_s(1, b"bad", 159.0) == 1
    assert offenders.refused_s(1, b"good", 100.0) == 0
    assert offenders.refused_s(2, b"bad", 100.0) == 0, "the same bytes mean something else there"
    assert offenders.refused_s(1, b"bad", 160.0) == 0
    assert not offenders.until, "and then nothing is hashed any more"


def test_who_offends_again_is_refused_longer_and_hides_nobody() -> None:
    offenders = Offenders()
    offenders.add(1, b"first", 0)
    offenders.add(1, b"second", 10)
    offenders.add(1, b"first", 50)
    assert offenders.refused_s(1, b"second", 71) == 0
    assert offenders.refused_s(1, b"first", 71) == 39


def test_there_is_a_bound() -> None:
    offenders = Offenders()
    for number in range(3000):
        offenders.add(1, str(number).encode(), 0)
    assert offenders.refused_s(1, b"0", 1) == 0
    assert offenders.refused_s(1, b"2999", 1) > 0
    assert sum(offenders.refused_s(1, str(number).encode(), 1) > 0 for number in range(3000)) == 1024
