"""What a config may say of the user's own models: how they are loaded, or where they are asked."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.runtime.section import Section


class LoadedModel(Section):
    """A model of the user's, and how it is loaded."""

    model: str | None = Field(None, min_length=1, description="A folder, or a name on the Hugging Face hub.")
    revision: str | None = Field(None, min_length=1, description="Branch, tag or commit on the hub.")
    trust_remote_code: bool = Field(False, description="Run the Python files of the model's folder or repository.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", exclude_if=lambda dtype: dtype == "float32", description="Of the weights in memory."
    )
    attn_implementation: str | None = Field(
        None,
        min_length=1,
        exclude_if=lambda name: name is None,
        description="Attention of transformers: sdpa, eager, flash_attention_2, flash_attention_3; unset lets it "
        "choose.",
    )


class ServiceSettings(Section):
    """A reward model behind an address: how it is asked, and for how long."""

    interface: Literal["vllm_classify", "vllm_pooling", "sglang_classify", "tei_predict", "json"] = Field(
        "json",
        description="What the server speaks: classify or pooling of vLLM, classify of SGLang, predict of "
        "text-embeddings-inference, or json, which is described in the docs.",
    )
    served_model: str | None = Field(None, min_length=1, description="The model's name there, where it wants one.")
    text: str = Field(
        "{prompt}{response}",
        description="What is scored, where an interface takes one text; {prompt} and {response} stand for theirs.",
    )
    label: int | str | None = Field(None, description="Number or name of the label whose score is taken.")
    request: dict[str, Any] = Field(default_factory=dict, description="More fields of each request.")
    api_key_variable: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w*$", description="Environment variable that holds the key; never the key itself."
    )
    batch_size: int = Field(32, ge=1, le=100_000, description="Texts of a request.")
    concurrency: int = Field(8, ge=1, le=1024, description="Requests that are under way at once.")
    timeout_seconds: float = Field(60.0, gt=0, le=86_400, description="How long an answer may take.")
    retries: int = Field(6, ge=0, le=1000, description="Further attempts of a request that failed.")
    longest_wait_seconds: float = Field(
        30.0, gt=0, le=86_400, description="Attempts are further and further apart, up to this."
    )
    kept_texts: int = Field(1_000_000, ge=0, le=10**9, description="Texts whose scores are kept, not asked for again.")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _whole_text(self) -> ServiceSettings:
        if "{response}" not in self.text:
            raise ValueError("service.text has no {response}: all would be scored alike; write {prompt}{response}")
        unknown = sorted(set(re.findall(r"{\w*}", self.text)) - {"{prompt}", "{response}"})
        if unknown:
            raise ValueError(f"service.text holds {unknown[0]}, which nothing stands for; remove it")
        return self


class RewardSettings(LoadedModel):
    """What scores a response: a sequence classifier, a function of texts, or a server that is asked.

    ``mean`` becomes 0 and ``deviation`` becomes 1. Where they are left out, the classifier's ``config.json`` may say
    them (``score_mean``, ``score_deviation``). A score is taken as it is otherwise.
    """

    function: str | None = Field(
        None, pattern=r"^[^:]+:[A-Za-z_]\w*$", description="package.module:name or file.py:name."
    )
    url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        exclude_if=lambda url: url is None,
        description="A server's address, with the path that is asked: http://127.0.0.1:8000/classify.",
    )
    service: ServiceSettings = Field(
        default_factory=ServiceSettings,
        exclude_if=lambda service: service == ServiceSettings(),
        description="url: how the server is asked.",
    )
    kind: Literal["causal", "encoder"] = Field("causal", description="How the model reads: forwards, or both ways.")
    read_at_eos: bool = Field(False, description="Causal: put end-of-sequence after every response and score there.")
    label: int | None = Field(None, ge=0, description="Encoder: the label whose logit is the score.")
    pair: bool = Field(False, description="Encoder: prompt and response are two texts to it, not one.")
    mean: float | None = Field(None, description="The score that becomes 0.")
    deviation: float | None = Field(None, gt=0, description="The difference of scores that becomes 1.")
    mask_token_id: int | None = Field(None, ge=0, description="Model: stands for absent tokens under absent: mask.")
    mask_text: str | None = Field(None, description="Function, url: stands for each absent token under absent: mask.")
    quantization: Literal["int8", "nf4"] | None = Field(
        None,
        exclude_if=lambda kind: kind is None,
        description="Weights of 8 or 4 bits, by bitsandbytes, which has to be installed.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> RewardSettings:
        given = [name for name in ("model", "function", "url") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give model, function or url: one of the three")
        loaded = [name for name in LoadedModel.model_fields if name != "model"]
        of_models = ["kind", "read_at_eos", "label", "pair", "mask_token_id", "quantization", *loaded]
        foreign = ["service"] if self.url is None else []
        if self.model is None:
            foreign += of_models
        else:
            foreign += ["mask_text", *(["label", "pair"] if self.kind == "causal" else ["read_at_eos"])]
        fields = type(self).model_fields
        set_to = [
            name for name in foreign if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]
        if set_to:
            what = f"kind {self.kind}" if self.model is not None else given[0]
            raise ValueError(f"{', '.join(set_to)} means nothing beside {what}; remove it")
        return self
