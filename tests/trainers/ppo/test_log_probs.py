"""Log-probabilities in portions, against the model's own logits."""

import pytest
import torch

from pipeline.trainers.ppo.log_probs import TokenHead, check_head, logits_bytes
from shaping.errors import ConfigError
from tests.support.models.tiny_models import EOS, tiny_policy
from tests.support.models.tiny_policies import POLICIES, policy_of


@pytest.mark.parametrize("name", POLICIES)
def test_logits_are_the_models_own(name):
    policy, ids = policy_of(name), torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    check_head(policy)
    with torch.no_grad():
        expected = policy(input_ids=ids).logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:, None]).flatten()
        hidden = policy.base_model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
        found, _ = TokenHead(policy, None, 1.0)(hidden, ids[:, 1:].flatten(), with_entropy=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # The test must be able to fail: what the family does to its logits is not nothing.
    if name in ("Gemma2", "Cohere", "Granite"):
        with torch.no_grad():
            plain = policy.get_output_embeddings()(hidden).log_softmax(dim=-1)
            assert float((plain.gather(1, ids[:, 1:].reshape(-1, 1)).squeeze(1) - expected).abs().max()) > 0.01


def test_model_with_logits_of_its_own_is_refused():
    policy = tiny_policy()
    forward = policy.forward

    def doubled(*arguments, **options):
        output = forward(*arguments, **options)
        output.logits = 2 * output.logits
        return output

    policy.forward = doubled
    with pytest.raises(ConfigError, match="changes its logits"):
        check_head(policy)
    policy.get_output_embeddings = lambda: None
    with pytest.raises(ConfigError, match="no language-model head"):
        check_head(policy)


def states_and_tokens(policy, count=23):
    generator = torch.Generator().manual_seed(2)
    vocabulary = policy.config.vocab_size
    states = torch.randn(count, policy.config.hidden_size, generator=generator).requires_grad_(True)
    tokens = torch.randint(EOS + 1, vocabulary, (count,), generator=generator)
    return states, tokens


@pytest.mark.parametrize("rows_in_a_portion", [1, 4, 22, 23])
@pytest.mark.parametrize(("banned", "temperature"), [(None, 1.0), (EOS, 0.7)])
def test_cutting_into_portions_changes_neither_values_nor_gradients(rows_in_a_portion, banned, temperature):
    policy = tiny_policy()
    found = []
    for portion_bytes in (2**30, 4 * policy.config.vocab_size * rows_in_a_portion):
        policy.zero_grad()
        states, tokens = states_and_tokens(policy)
        log_probs, entropy = TokenHead(policy, banned, temperature, portion_bytes)(states, tokens, with_entropy=True)
        (log_probs * torch.arange(23)).sum().backward()
        found.append((log_probs.detach(), entropy, states.grad, policy.lm_head.weight.grad.clone()))
    for whole, cut in zip(*found, strict=True):
        assert float(whole.abs().max()) > 0
        torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)


def test_no_logits_are_kept_for_the_backward_pass_beyond_a_portion():
    policy = tiny_policy()
    kept = []

    def note(tensor):
        kept.append(tensor.numel())
        return tensor

    for rows_in_a_portion in (23, 4):
        states, tokens = states_and_tokens(policy)
        head = TokenHead(policy, None, 1.0, 4 * policy.config.vocab_size * rows_in_a_portion)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            head(states, tokens, with_entropy=False)
        # Beside the head's weight, which is no copy.
        logits = [size for size in kept if size != policy.lm_head.weight.numel()]
        if rows_in_a_portion == 23:
            assert max(logits) == 23 * policy.config.vocab_size
        else:
            assert max(logits, default=0) <= 23 * policy.config.hidden_size


def test_entropy_is_not_computed_unless_asked_for():
    states, tokens = states_and_tokens(policy := tiny_policy())
    head = TokenHead(policy, None, 1.0)
    assert not head(states, tokens, with_entropy=False)[1].any()
    assert head(states, tokens, with_entropy=True)[1].all()


def test_batch_without_tokens_has_no_log_probabilities():
    policy = tiny_policy()
    found, entropy = TokenHead(policy, EOS, 1.0)(torch.zeros(0, 16), torch.zeros(0, dtype=torch.long), True)
    assert len(found) == len(entropy) == 0


@pytest.mark.parametrize(("free", "expected"), [(2**20, 32 * 2**20), (2**32, 2**28), (2**40, 2**30)])
def test_portions_go_by_what_is_free_on_a_gpu_and_are_fixed_elsewhere(free, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**40))
    assert logits_bytes(torch.device("cuda", 0)) == expected
    assert logits_bytes(torch.device("cpu")) == 32 * 2**20
