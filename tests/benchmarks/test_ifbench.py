"""IFBench: pass rates as claims, paired prompt by prompt; what is no policy is told at once."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.ifbench.__main__ import UNTRAINED, claims, named_folder, table

FOUND = {
    UNTRAINED: {"strict": [True, False, False, False], "substantial": [False] * 4},
    "prefix": {"strict": [True, True, False, False], "substantial": [True, False, True, False]},
}


def test_rates_are_claims_and_what_was_trained_is_paired_with_what_was_not() -> None:
    found = {claim.name: claim for claim in claims(FOUND)}
    assert found["ifbench.untrained.strict"].value == 0.25 and found["ifbench.prefix.strict"].n == 4
    gain = found["ifbench.prefix.strict_over_untrained"]
    # One prompt of four was won and none lost: paired, that spreads less than the rate itself does.
    rate = found["ifbench.prefix.strict"]
    assert gain.value == pytest.approx(0.25) and gain.high - gain.low < rate.high - rate.low
    assert not any(name.startswith("ifbench.untrained") and name.endswith("over_untrained") for name in found)
    told = table(FOUND).splitlines()
    assert "| untrained | 0.250" in told[2] and told[2].endswith("|  |")
    assert "+0.500 [" in told[3]


@pytest.mark.parametrize("given", ["policy", "=policy", f"{UNTRAINED}=policy"])
def test_a_policy_has_a_name_of_its_own(given: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=FOLDER"):
        named_folder(given)


def test_a_folder_without_a_policy_is_told_before_anything_is_sampled(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="holds no policy"):
        named_folder(f"a={tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    assert named_folder(f"a={tmp_path}") == ("a", tmp_path)
