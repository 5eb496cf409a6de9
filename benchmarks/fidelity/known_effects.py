"""A reward whose truth is known: the sum of what each token is worth.

    R(x, y) = base + sum_t e(y_t) s_t        s_t = -1 after a flipper, else 1

``e`` is a fixed number for every token of the vocabulary. Without flippers each token's effect is ``e(y_t)``, whatever
method one asks. A flipper turns the effect of the token behind it round, as "not" does: then credit has to be shared,
and who takes a token away brings others behind the flipper. In that game, whose coalitions delete tokens,

    R = base + sum_t e_t - 2 sum_{j < t, j a flipper} e_t [j and t are there, the b tokens between them are not]

and the Shapley value of a bracket is ``1 / ((b + 1) (b + 2))`` for ``j`` and for ``t``, the share of orders in which
these two are the first to come, and ``-2 / (b (b + 1) (b + 2))`` for each token between, where it is the third.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shaping.errors import ConfigError
from shaping.gradients import integrated_gradients
from shaping.reward_models.base import VariantScores, check_absent
from shaping.rollouts import Rollouts
from shaping.variants import NO_TOKEN, Variants


class KnownEffects:
    """The reward model. It sees nothing but the response's tokens.

    Args:
        effects: A ``V`` tensor: what each token of the vocabulary is worth, score units.
        flippers: A ``V`` boolean tensor: which tokens turn the next one's effect round.
        base: The score of an empty response.
    """

    name, added_tokens, layers = "known effects", 0, 0
    abilities = frozenset({"prefix", "gradient"})

    def __init__(self, effects: Tensor, flippers: Tensor, base: float = 0.0) -> None:
        self.effects, self.flippers, self.base = effects.float(), flippers.bool(), base

    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant; there is no model that tokens would be forwarded by."""
        check_absent(variants.absent, self.abilities, self.name)
        return VariantScores(self.base + self._worth(variants.kept_ids()).sum(dim=1), 0)

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores along the responses; padding repeats the last one."""
        along = self.worth(rollouts).cumsum(dim=1)
        return self.base + torch.cat([torch.zeros_like(along[:, :1]), along], dim=1)

    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Refuse: a sum has no attention."""
        raise ConfigError(f"the reward model {self.name} has no attention", "set attention's weight to 0")

    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients over embeddings that hold effect and flipping: two numbers a token."""
        both = torch.stack([self.effects, self.flippers.float()], dim=1)
        table = nn.Embedding.from_pretrained(both)  # type: ignore[no-untyped-call]  # torch does not type it

        def score(embedded: Tensor) -> Tensor:
            effects, flips = embedded.unbind(dim=2)
            before = torch.cat([torch.zeros_like(flips[:, :1]), flips[:, :-1]], dim=1)
            return (effects * (1 - 2 * before) * rollouts.response_mask).sum(dim=1)

        return integrated_gradients(table, score, rollouts.response_ids, absent, steps)

    def worth(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x T`` what each token adds where it stands: its effect, turned round behind a flipper."""
        return self._worth(torch.where(rollouts.response_mask, rollouts.response_ids, NO_TOKEN))

    def shapley_values(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x T`` Shapley values of the tokens, in closed form: a row sums to ``v(all) - v(none)``."""
        ids, mask = rollouts.response_ids, rollouts.response_mask
        effects, flips = (self.effects[ids] * mask).double(), self.flippers[ids] & mask
        place = torch.arange(ids.shape[1])
        between = place[None, :] - place[:, None] - 1
        # What the pair of flipper j and later token t is worth where it stands side by side.
        worth = -2.0 * flips.double()[:, :, None] * effects[:, None, :] * (between >= 0)
        b = between.clamp(min=0).double()
        of_pair = worth / ((b + 1) * (b + 2))
        taken = worth * torch.where(between > 0, -2 / (b.clamp(min=1) * (b + 1) * (b + 2)), 0.0)
        inside = (place[:, None, None] < place[None, :, None]) & (place[None, :, None] < place[None, None, :])
        of_between = torch.einsum("bjt,jit->bi", taken, inside.double())
        return effects + of_pair.sum(dim=2) + of_pair.sum(dim=1) + of_between

    def standardised(self, mean: float, deviation: float) -> KnownEffects:
        """Return the same reward with the score ``mean`` at 0 and one ``deviation`` as the unit."""
        return KnownEffects(self.effects / deviation, self.flippers, (self.base - mean) / deviation)

    def _worth(self, ids: Tensor) -> Tensor:
        known = ids.clamp(min=0)
        flips = self.flippers[known]
        behind = torch.cat([torch.zeros_like(flips[:, :1]), flips[:, :-1]], dim=1)
        effects = self.effects[known]
        return torch.where(ids == NO_TOKEN, 0.0, torch.where(behind, -effects, effects))


def word_effects(tokenizer: object, flippers: Sequence[str], least_letters: int, seed: int) -> KnownEffects:
    """Return a reward with an effect, normally distributed, for every token that begins a word of enough letters.

    Args:
        tokenizer: Of the policy, over bytes: ``Ġ`` begins a word.
        flippers: Words that flip; they and all other tokens have no effect.
        least_letters: Of a token with an effect.
        seed: Of the draws.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))  # type: ignore[attr-defined,arg-type]
    words = [token[1:] if token.startswith("Ġ") and token[1:].isalpha() else "" for token in tokens]
    flips = torch.tensor([word in flippers for word in words])
    worth = torch.tensor([len(word) >= least_letters for word in words]) & ~flips
    draws = torch.randn(len(words), generator=torch.Generator().manual_seed(seed))
    return KnownEffects(draws * worth, flips)
