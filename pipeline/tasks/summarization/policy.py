"""The policies of the summarization task, and how each is asked for a summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM

from pipeline.tasks.models.language_model import fine_tune, train_tokenizer
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.settings import SummaryRecipe
from pipeline.tasks.summarization.examples import Example, copied_examples, human_examples, plain_texts, repeating_rows
from pipeline.tasks.summarization.papers import Paper


@dataclass(frozen=True)
class SummaryTokens:
    """Prompts and summaries in a policy's tokens.

    Attributes:
        tokenizer: The policy's; its end-of-sequence ends a summary.
        chat: Whether the policy is asked through its chat template.
    """

    tokenizer: Any
    chat: bool

    @classmethod
    def of(cls, tokenizer: Any) -> SummaryTokens:
        """Return them for a tokenizer: one that has a chat template is asked through it."""
        return cls(tokenizer, bool(tokenizer.chat_template))

    def prompt(self, example: Example) -> list[int]:
        """Return the ids that ask for a summary of the example's source."""
        if self.chat:
            asked = f"State the {example.aspect} of this paper in one short sentence.\n\n{example.source}"
            return self.ids(PromptRow(example.paper, None, asked))
        return self.ids(PromptRow(example.paper, None, f"{example.aspect}: {example.source} summary:"))

    def ids(self, row: PromptRow) -> list[int]:
        """Return the ids of a prompt in words: what a user says, or all that the tiny policy reads.

        Raises:
            ConfigError: It is a chat, and the policy knows none.
        """
        if self.chat:
            return row.as_chat().ids(self.tokenizer)
        return [int(self.tokenizer.bos_token_id), *row.ids(self.tokenizer)]

    def summary(self, text: str) -> list[int]:
        """Return the ids of a summary, end-of-sequence included."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, int(self.tokenizer.eos_token_id)]

    def row(self, example: Example) -> list[int]:
        """Return prompt and summary in one."""
        return self.prompt(example) + self.summary(example.summary)


def train_tiny(
    recipe: SummaryRecipe, papers: Sequence[Paper], scratch: Path
) -> tuple[LlamaForCausalLM, SummaryTokens, LlamaForCausalLM]:
    """Return the tiny policy, its tokens, and what it was before it saw a human summary of a source.

    It learns to copy, then the papers' language and to copy whole sentences of a source, then to summarize. The last
    step sees summaries of the policy's own papers alone.
    """
    summaries = [summary for paper in papers for summary in paper.summaries.values()]
    texts = plain_texts(papers)
    tokens = SummaryTokens.of(train_tokenizer(texts + summaries, recipe.vocabulary))
    plain = [tokens.summary(text) for text in texts]
    epochs = recipe.model_copy(update={"policy_epochs": 1})
    model = fine_tune(epochs, tokens.tokenizer, repeating_rows(plain, recipe.repeating_rows, recipe.seed), scratch)
    bos = int(tokens.tokenizer.bos_token_id)
    copied = [tokens.row(each) for each in copied_examples(papers, recipe.source_words, 1, recipe.seed)]
    rows = [row[: recipe.max_tokens] for row in [*([bos, *row] for row in plain), *copied]]
    base = fine_tune(recipe, tokens.tokenizer, rows, scratch, model)
    start = LlamaForCausalLM(base.config)
    start.load_state_dict(base.state_dict())
    own = [paper for paper in papers if paper.part == "policy"]
    human = [tokens.row(example)[: recipe.max_tokens] for example in human_examples(own, recipe.source_words)]
    rate = {"policy_epochs": recipe.summary_epochs, "policy_learning_rate": recipe.summary_learning_rate}
    return fine_tune(recipe.model_copy(update=rate), tokens.tokenizer, human, scratch, base), tokens, start
