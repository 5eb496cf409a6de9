from shaping.credit import METHODS
from shaping.method_names import BY_UNITS, CAUSAL, METHOD_NAMES, SUMS_TO_SCORE


def test_what_is_known_without_the_methods_is_what_they_say() -> None:
    assert tuple(METHODS) == METHOD_NAMES
    assert {name for name, method in METHODS.items() if method.causal} == CAUSAL
    assert {name for name, method in METHODS.items() if method.sums_to_score} == SUMS_TO_SCORE
    assert {name for name, method in METHODS.items() if method.by_units} == BY_UNITS
