"""What reward servers are asked and what they answer, in the form that each of them has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.tasks.model_settings import ServiceSettings


class GarbledAnswer(ValueError):
    """An answer that is not what the interface says."""


@dataclass(frozen=True)
class Interface:
    """One kind of server.

    Attributes:
        ask: From settings, prompts and responses to the body of a request.
        read: From settings, an answer and the number of texts to a score for each text, in their order.
        serves: What serves it, for messages.
    """

    ask: Callable[[ServiceSettings, Sequence[str], Sequence[str]], dict[str, Any]]
    read: Callable[[ServiceSettings, Any, int], list[float]]
    serves: str


def whole_texts(settings: ServiceSettings, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
    """Return the text that is scored for each response; what a prompt says is never read as a place of the form."""
    before, _, after = settings.text.partition("{response}")
    return [
        before.replace("{prompt}", prompt) + response + after.replace("{prompt}", prompt)
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def _named(settings: ServiceSettings) -> dict[str, Any]:
    return {} if settings.served_model is None else {"model": settings.served_model}


def _ask_vllm_classify(settings: ServiceSettings, prompts: Sequence[str], responses: Sequence[str]) -> dict[str, Any]:
    # A probability is another reward than the score that it is made of.
    return {**_named(settings), "input": whole_texts(settings, prompts, responses), "use_activation": False}


def _ask_vllm_pooling(settings: ServiceSettings, prompts: Sequence[str], responses: Sequence[str]) -> dict[str, Any]:
    return {**_named(settings), "input": whole_texts(settings, prompts, responses)}


def _ask_sglang(settings: ServiceSettings, prompts: Sequence[str], responses: Sequence[str]) -> dict[str, Any]:
    return {**_named(settings), "text": whole_texts(settings, prompts, responses)}


def _ask_tei(settings: ServiceSettings, prompts: Sequence[str], responses: Sequence[str]) -> dict[str, Any]:
    texts = [[text] for text in whole_texts(settings, prompts, responses)]
    return {"inputs": texts, "raw_scores": True, "truncate": False}


def _ask_json(settings: ServiceSettings, prompts: Sequence[str], responses: Sequence[str]) -> dict[str, Any]:
    return {**_named(settings), "prompts": list(prompts), "responses": list(responses)}


def _read_vllm_classify(settings: ServiceSettings, answer: Any, count: int) -> list[float]:
    return [_chosen(settings, _field(each, "probs")) for each in _in_order(_field(answer, "data"), count)]


def _read_vllm_pooling(settings: ServiceSettings, answer: Any, count: int) -> list[float]:
    found = [_field(each, "data") for each in _in_order(_field(answer, "data"), count)]
    # Of a score for each token the last one is the text's.
    return [_chosen(settings, each[-1] if _is_list(each) and each and _is_list(each[-1]) else each) for each in found]


def _read_sglang(settings: ServiceSettings, answer: Any, count: int) -> list[float]:
    rows = answer if _is_list(answer) else [answer]
    return [_chosen(settings, _field(each, "embedding")) for each in _counted(rows, count)]


def _read_tei(settings: ServiceSettings, answer: Any, count: int) -> list[float]:
    rows = _counted(answer, count)
    # Its labels come in the order of their scores.
    labels = [{str(_field(each, "label")): _field(each, "score") for each in _counted(row, None)} for row in rows]
    return [_named_score(settings, each) for each in labels]


def _read_json(settings: ServiceSettings, answer: Any, count: int) -> list[float]:
    return [_number(each) for each in _counted(_field(answer, "scores"), count)]


INTERFACES = {
    "vllm_classify": Interface(_ask_vllm_classify, _read_vllm_classify, "vLLM's /classify"),
    "vllm_pooling": Interface(_ask_vllm_pooling, _read_vllm_pooling, "vLLM's /pooling"),
    "sglang_classify": Interface(_ask_sglang, _read_sglang, "SGLang's /classify"),
    "tei_predict": Interface(_ask_tei, _read_tei, "text-embeddings-inference's /predict"),
    "json": Interface(_ask_json, _read_json, "a server of prompts and responses"),
}


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise GarbledAnswer(f"has no {name} where one is expected")
    return value[name]


def _counted(values: Any, count: int | None) -> list[Any]:
    if not isinstance(values, list):
        raise GarbledAnswer(f"holds a {type(values).__name__} where a list is expected")
    if count is not None and len(values) != count:
        raise GarbledAnswer(f"holds {len(values)} scores for {count} texts")
    return values


def _in_order(rows: Any, count: int) -> list[Any]:
    """Return the rows by the index that each of them names, whatever order they came in."""
    found = {_field(each, "index"): each for each in _counted(rows, count)}
    if set(found) != set(range(count)):
        raise GarbledAnswer(f"does not number its {count} scores from 0 to {count - 1}")
    return [found[place] for place in range(count)]


def _chosen(settings: ServiceSettings, values: Any) -> float:
    """Return the score among those of all labels."""
    if not isinstance(values, list):
        return _number(values)
    if settings.label is None and len(values) != 1:
        raise GarbledAnswer(f"has {len(values)} labels; say with service.label which number is the score")
    place = 0 if settings.label is None else settings.label
    if not isinstance(place, int) or not 0 <= place < len(values):
        raise GarbledAnswer(f"has labels 0 to {len(values) - 1}, and none is service.label = {place}")
    return _number(values[place])


def _named_score(settings: ServiceSettings, labels: Mapping[str, Any]) -> float:
    if settings.label is None and len(labels) == 1:
        return _number(next(iter(labels.values())))
    if str(settings.label) not in labels:
        raise GarbledAnswer(f"has the labels {', '.join(sorted(labels))}; say with service.label which is the score")
    return _number(labels[str(settings.label)])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GarbledAnswer(f"holds {str(value)[:40]!r} where a finite number is expected")
    return float(value)
