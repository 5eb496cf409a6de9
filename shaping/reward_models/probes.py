"""What a reward model can do beyond scoring, found out by doing it on a few short rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shaping.errors import ShapetuneError, is_out_of_memory
from shaping.reward_models.positions import plain_ids, tables_of_tokens
from shaping.reward_models.rounding import allowed_difference
from shaping.reward_models.trial import in_words, refusing_failures
from shaping.rollouts import Rollouts
from shaping.variants import Variants

if TYPE_CHECKING:
    from shaping.reward_models.causal import CausalRewardModel
    from shaping.reward_models.encoder import EncoderRewardModel

# Tokens of the prompts and responses that are tried.
PROMPTS, RESPONSES = (3, 1, 2), (4, 5, 2)


class Abilities(Set[str]):
    """What a model can do, as names; each is found out when it is first asked for.

    Args:
        certain: What needs no trial.
        attempts: Of each other ability, what returns the reason why the model lacks it, or nothing.
    """

    def __init__(self, certain: Iterable[str], attempts: Mapping[str, Callable[[], str]]) -> None:
        self._certain, self._attempts = frozenset(certain), attempts
        self._reasons: dict[str, str] = {}

    def reason(self, name: str) -> str:
        """Return why the model lacks an ability; nothing where it has it."""
        if name not in self._reasons:
            self._reasons[name] = reason_against(self._attempts[name])
        return self._reasons[name]

    @property
    def lacking(self) -> dict[str, str]:
        """Each ability that the model lacks, and the reason."""
        reasons = {name: self.reason(name) for name in self._attempts}
        return {name: reason for name, reason in reasons.items() if reason}

    def __contains__(self, name: object) -> bool:
        return name in self._certain or (isinstance(name, str) and name in self._attempts and not self.reason(name))

    def __iter__(self) -> Iterator[str]:
        yield from sorted(self._certain)
        yield from (name for name in self._attempts if not self.reason(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @classmethod
    def _from_iterable(cls, names: Iterable[str]) -> frozenset[str]:  # type: ignore[override]
        return frozenset(names)


class HasAbilities:
    """A reward model whose abilities are found out by trying."""

    @property
    def _found(self) -> Abilities:
        raise NotImplementedError

    @property
    def abilities(self) -> Set[str]:
        """What it can do, found by trying on a few short rows when it is asked for."""
        return self._found

    @property
    def lacking(self) -> dict[str, str]:
        """Why it cannot do what others can: ability to reason."""
        return self._found.lacking


def reason_against(attempt: Callable[[], str]) -> str:
    """Return why an attempt fails: what it returns, or the error that it ends in."""
    try:
        return attempt()
    except ShapetuneError as error:
        return error.message
    except Exception as error:  # a model's own code may fail in any way on what it was not made for
        if is_out_of_memory(error):
            raise
        return in_words(error)


def find_abilities(model: CausalRewardModel, certain: set[str]) -> Abilities:
    """Return what a model can do: what is ``certain``, and what it does rightly on a few short rows."""
    rollouts = short_rollouts(model.model, model.eos_token_id)
    attempts = {
        "attention": lambda: _attention(model, rollouts),
        "gradient": lambda: _gradient(model, rollouts),
        "absent_attention": lambda: _hidden(model, rollouts),
    }
    # Read at end-of-sequence, a score along the response is not a score of its prefix.
    if model.eos_token_id is None:
        attempts["prefix"] = lambda: _prefixes(model, rollouts)
    return Abilities(certain, attempts)


def find_encoder_abilities(model: EncoderRewardModel, certain: set[str]) -> Abilities:
    """Return what an encoder can do: what is ``certain``, and what it does rightly on a few short rows.

    Raises:
        ConfigError: It gives one text two scores.
    """
    rollouts = short_rollouts(model.model, None)
    with refusing_failures(model.name):
        model.score_variants(Variants.prefixes(rollouts))
    attempts = {
        "attention": lambda: _encoder_attention(model, rollouts),
        "gradient": lambda: _encoder_gradient(model, rollouts),
        "absent_attention": lambda: _hidden_units(model, rollouts),
    }
    return Abilities(certain, attempts)


# Tensors of inference mode may not take part in a gradient's computation.
@torch.inference_mode(False)
def short_rollouts(model: PreTrainedModel, avoided: int | None) -> Rollouts:
    """Return a few short prompts and responses in a model's tokens, without ``avoided``."""
    ids = plain_ids(model, sum(PROMPTS) + sum(RESPONSES), avoided)[0].tolist()
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    place = 0
    for sizes, rows in ((PROMPTS, prompts), (RESPONSES, responses)):
        for size in sizes:
            rows.append(ids[place : place + size])
            place += size
    return Rollouts.of_ids(prompts, responses, model.device)


def _hidden(model: CausalRewardModel, rollouts: Rollouts) -> str:
    if not takes_positions(model.model):
        return "it cannot be told the positions of its tokens"
    rows = torch.arange(len(rollouts), device=rollouts.response_ids.device)
    keep = rollouts.response_mask.clone()
    keep[:, 0] = False
    model.score_variants(Variants(rollouts, rows, keep, "attention"))
    return ""


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether a model can be told its positions; ALiBi counts them itself, hidden tokens left out."""
    told = "position_ids" in inspect.signature(model.base_model.forward).parameters
    return told and not getattr(model.config.get_text_config(), "alibi", False)


def _prefixes(model: CausalRewardModel, rollouts: Rollouts) -> str:
    found = model.prefixes_in_one_pass(rollouts)
    return "what it computes for a token depends on later ones" if found is None else ""


def _attention(model: CausalRewardModel, rollouts: Rollouts) -> str:
    model.response_attention(rollouts)
    return ""


@torch.inference_mode(False)
def _gradient(model: CausalRewardModel, rollouts: Rollouts) -> str:
    ids = rollouts.prompt_ids[:1, :3].clone()
    reason = reason_against_embeddings(
        model.model,
        ids,
        lambda: model.own_score(ids),
        lambda embedded: model.score_embedded(embedded, {"input_ids": ids}, torch.tensor([ids.shape[1] - 1])),
    )
    if not reason:
        model.integrated_gradients(rollouts, rollouts.response_mask, steps=2)
    return reason


def _encoder_attention(model: EncoderRewardModel, rollouts: Rollouts) -> str:
    reason = _reason_against_first_token(model, rollouts)
    if not reason:
        model.response_attention(rollouts)
    return reason


@torch.inference_mode(False)
@torch.enable_grad()
def _reason_against_first_token(model: EncoderRewardModel, rollouts: Rollouts) -> str:
    """Return why the score is not read at the first token, seen from what its gradient reaches."""
    inputs = {name: value.clone() for name, value in model.framed(rollouts.select(torch.tensor([0]))).items()}
    handle = model.model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: output.requires_grad_(True).clone()
    )
    try:
        output = model.model(**inputs, output_hidden_states=True)
    finally:
        handle.remove()
    last = (getattr(output, "hidden_states", None) or [None])[-1]
    if last is None or last.dim() != 3 or last.shape[1] != inputs["input_ids"].shape[1]:
        return "it does not tell where its score is read"
    (reached,) = torch.autograd.grad(output.logits.sum(), last, allow_unused=True)
    if reached is None:
        return "it does not tell where its score is read"
    places = torch.nonzero(reached[0].abs().sum(dim=1)).flatten().tolist()
    return "" if places == [0] else f"its score is read at tokens {places} of {last.shape[1]}, not at the first"


@torch.inference_mode(False)
def _encoder_gradient(model: EncoderRewardModel, rollouts: Rollouts) -> str:
    framed = model.framed(rollouts.select(torch.tensor([0])))
    inputs = {name: value.clone() for name, value in framed.items()}
    reason = reason_against_embeddings(
        model.model,
        inputs["input_ids"],
        lambda: model.own_score(inputs),
        lambda embedded: model.score_embedded(embedded, inputs),
    )
    if not reason:
        model.integrated_gradients(rollouts, rollouts.response_mask, steps=2)
    return reason


@torch.inference_mode()
def _hidden_units(model: EncoderRewardModel, rollouts: Rollouts) -> str:
    """Return why hiding a token from attention is not enough to take it away."""
    rows = torch.arange(len(rollouts), device=rollouts.response_ids.device)
    keep = rollouts.response_mask.clone()
    keep[:, 0] = False
    others = rollouts.response_ids.clone()
    others[:, 0] = rollouts.prompt_ids[:, -1]
    changed = Rollouts(rollouts.prompt_ids, rollouts.prompt_mask, others, rollouts.response_mask)
    found, moved = (
        model.score_variants(Variants(each, rows, keep, "attention")).values for each in (rollouts, changed)
    )
    plain = {row: found[row : row + 1].double().cpu() for row in range(len(rollouts))}

    def alone(row: int) -> Tensor:
        """Return the score of a variant alone, in double precision."""
        one = Variants(rollouts, rows[row : row + 1], keep[row : row + 1], "attention")
        return model.score_variants(one).values.double().cpu()

    difference = float((moved - found).abs().max())
    allowed = allowed_difference(model.model, alone, plain)
    return "" if difference <= allowed else f"a hidden token still moves its score, by {difference:.2g}"


def reason_against_embeddings(
    model: PreTrainedModel, ids: Tensor, own: Callable[[], Tensor], embedded: Callable[[Tensor], Tensor]
) -> str:
    """Return why the score is no function of the embeddings of its tokens; nothing where it is one.

    Args:
        model: The model.
        ids: One row, ``1 x L``.
        own: Its score by its ids.
        embedded: Its score by its embeddings, ``1 x L x d``.
    """
    table = model.get_input_embeddings()
    if len(tables_of_tokens(own, ids)) > 1:
        return "it looks its tokens up in more tables than that of their embeddings"
    with torch.no_grad():
        plain = {0: own().double().cpu()}
        by_table = embedded(table(ids)).double().cpu()
    allowed = allowed_difference(model, lambda _: own().detach().double().cpu(), plain)
    difference = float((by_table - plain[0]).abs().max())
    return "" if difference <= allowed else f"from embeddings in place of tokens its score differs by {difference:.2g}"
