"""Token rewards in a training loop of your own: REINFORCE, in which each token is paid for what is still to come.

    python examples/token_rewards.py

It takes 5 s on two cores, and prints

    step  0   mean score 0.44   ,  very  film  dull -1  dull -1  bad -1  film  </s>  = -3
    step 10   mean score 4.31   great +1  fine +1  great +1  fresh +1  great +1  fine +1  the  story  = +6
    step 20   mean score 7.38   good +1  great +1  great +1  story  good +1  great +1  good +1  fresh +1  = +7
    each row summed to its score, within 1e-5: True
"""

from __future__ import annotations

import re
from typing import Any

import tiny
import torch
from torch import Tensor

from shaping import Rollouts, Shape, Shaper, TextRewardModel

STEPS, BATCH, TOKENS = 21, 32, 8
PRAISE, BLAME = {"good", "great", "moving", "fresh", "fine"}, {"bad", "dull", "weak", "slow", "long"}


def praise(texts: list[str]) -> list[float]:
    """Return the score of each text: the words that praise, less the words that blame."""
    words = [re.findall(r"\w+", text) for text in texts]
    return [float(sum((word in PRAISE) - (word in BLAME) for word in each)) for each in words]


def sample(policy: Any, tokenizer: Any) -> Rollouts:
    """Return a batch of sampled responses; each one ends with its first end-of-sequence."""
    prompts = tokenizer(list(tiny.PROMPTS) * (BATCH // len(tiny.PROMPTS)), return_tensors="pt", padding=True)
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    made = policy.generate(input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=TOKENS)
    response = made[:, ids.shape[1] :]
    ends = response == tokenizer.eos_token_id
    return Rollouts(ids, mask.bool(), response, ends.cumsum(dim=1) - ends.long() == 0)


def reward_to_go(rewards: Tensor) -> Tensor:
    """Return ``B x T``: what each token and all later ones are paid."""
    return rewards.flip(1).cumsum(dim=1).flip(1)


def main() -> dict[str, Any]:
    """Train, and return the mean scores of the batches, and the largest miss of a score by its row's sum."""
    policy, tokenizer = tiny.policy(), tiny.tokenizer()
    # Responses may end early: what credit leaves of a score goes to the first token, where it sways no choice.
    shape = Shape(weights={"prefix": 1.0}, closure="first")
    shaper = Shaper(shape, TextRewardModel(praise, tokenizer), tokenizer)
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    means, worst = [], 0.0
    for step in range(STEPS):
        rollouts = sample(policy, tokenizer)
        rewards, scores, mask = shaper(rollouts), shaper.scores(rollouts), rollouts.response_mask
        worst = max(worst, float((rewards.sum(dim=1) - scores).abs().max()))
        to_go = reward_to_go(rewards)
        baseline = (to_go * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1)
        loss = -(tiny.log_probabilities(policy, rollouts) * (to_go - baseline) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        means.append(float(scores.mean()))
        if step % 10 == 0:
            response = tiny.told(tokenizer, rollouts.response_ids[1][mask[1]], rewards[1][mask[1]])
            print(f"step {step:2}   mean score {means[-1]:4.2f}   {response}  = {scores[1]:+.0f}")
    print("each row summed to its score, within 1e-5:", worst < 1e-5)
    return {"means": means, "worst": worst}


if __name__ == "__main__":
    main()
