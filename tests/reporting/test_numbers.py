from __future__ import annotations

import math

from speaker_verification.reporting import numbers


def test_numbers_have_fixed_decimals_thin_separators_and_a_dash_where_nothing_is_known() -> None:
    assert numbers.count(1_170_000) == "1\u2009170\u2009000"
    assert numbers.percent(0.375) == "0.38"
    assert numbers.decimals(-1.2345) == "\u22121.234"
    assert numbers.interval((0.3, 0.456)) == "[0.30, 0.46]"
    unknown = (numbers.count(None), numbers.percent(None), numbers.percent(math.nan), numbers.interval(None))
    assert unknown == ("\u2013",) * 4


def test_names_are_joined_as_in_a_sentence() -> None:
    assert numbers.joined(["a"]) == "a"
    assert numbers.joined(["a", "b", "c"]) == "a, b and c"
