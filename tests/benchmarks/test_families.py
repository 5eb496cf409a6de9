"""Every family of models that the library can build tiny is right by the raw library, or refused by name."""

import warnings

import pytest
import torch
import transformers

from benchmarks.families.build import kinds
from benchmarks.families.verdict import Unbuilt, judged
from shaping.reward_models.trial import Trials

pytestmark = pytest.mark.slow

BUILT: dict[str, str] = {}
HALF = ("llama", "gpt2", "bloom", "qwen3", "gemma3_text", "gpt_neox", "falcon", "phi3", "opt")


@pytest.fixture(autouse=True)
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.utils.logging.set_verbosity_warning()


@pytest.mark.parametrize("kind", kinds())
def test_a_family_is_right_or_refused_by_name(kind):
    try:
        found = judged(kind)
    except Unbuilt as reason:
        pytest.skip(f"the library cannot build it tiny: {reason}")
    assert not found.wrong
    BUILT[kind] = found.side


@pytest.mark.parametrize("kind", HALF)
def test_in_bfloat16_too(kind):
    assert not judged(kind, torch.bfloat16).wrong


def test_most_families_were_built():
    if not BUILT:
        pytest.skip("the families were not tried in this run")
    sides = list(BUILT.values())
    assert sides.count("causal") >= 80 and sides.count("encoder") >= 40


def test_a_trial_that_admits_everything_would_be_seen(monkeypatch):
    """The oracle can fail: with trials that find no difference, families that look beyond their row are wrong."""
    monkeypatch.setattr(Trials, "_difference", lambda *_: "")
    for kind in ("bert-generation", "xlnet"):
        assert judged(kind).wrong
