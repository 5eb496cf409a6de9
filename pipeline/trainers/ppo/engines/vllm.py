"""Sampling by vLLM, whose server gets the policy's weights after every update.

The server may run beside the trainer, in an interpreter of its own: vLLM pins other versions than this project. Or it
runs elsewhere: ``VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --generation-config vllm --logprobs-mode processed_logprobs``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
import torch
from torch import Tensor
from transformers import PreTrainedModel
from urllib3 import Retry

from pipeline.trainers.base import Prompts, Task
from pipeline.trainers.ppo.engines.base import sampled_of, seeds_of
from pipeline.trainers.ppo.engines.vllm_process import VllmProcess
from pipeline.trainers.ppo.policy import merged_weights
from pipeline.trainers.ppo.rollout import Sampled
from pipeline.trainers.ppo.settings import SamplingSettings
from shaping.errors import ConfigError, SamplingServerFailed, TrialFailed

# Memory that looks like a disk: weights pass through it, in a folder that is made for one run.
SHARED_MEMORY = Path("/dev/shm")  # nosec B108
# Statuses by which a proxy says that it did not reach the server.
PASSING = (502, 503, 504)


class VllmEngine:
    """Asks a vLLM server for responses.

    Args:
        policy: What is trained, adapters included.
        task: Its prompts and tokenizer.
        settings: How responses are sampled.
        half: The type that the policy's products are computed in; ``None`` for float32.
        seed: Of what is random in a server that is started here.

    Raises:
        ConfigError: There is no vLLM, or the server that is named takes no weights.
        TrialFailed: The server did not start (``sampling_server``).
    """

    def __init__(
        self, policy: PreTrainedModel, task: Task, settings: SamplingSettings, half: torch.dtype | None, seed: int
    ) -> None:
        self._policy, self._sampling = policy, settings
        self._settings = settings.server
        self._ends = list(task.end_token_ids)
        self._dtype = half or torch.float32
        shared = self._settings.weights_folder or (SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
        self._folder = Path(tempfile.mkdtemp(prefix="shapetune-weights-", dir=shared))
        self._session, self._process = requests.Session(), None
        # The same seed gives the same response: what a network lost may be asked again.
        again = Retry(3, backoff_factor=0.5, allowed_methods=None, status_forcelist=PASSING, raise_on_status=False)
        pool = requests.adapters.HTTPAdapter(pool_maxsize=self._settings.concurrency, max_retries=again)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)
        try:
            self._write_weights()
            self._stale = self._settings.url is not None
            if self._settings.url is None:
                task.tokenizer.save_pretrained(self._folder)
                name = str(self._dtype).removeprefix("torch.")
                longest = max(each.mask.sum(dim=1).max() for each in (task.train_prompts, task.held_out_prompts))
                length = int(longest) + settings.response_tokens
                self._process = VllmProcess(
                    self._folder, self._settings, name, length, seed, policy.device.type == "cuda"
                )
            self._url = self._process.url if self._process else str(self._settings.url).rstrip("/")
            self._model = self._get("v1/models")["data"][0]["id"]
        except BaseException:
            self.close()
            raise

    def sample(self, prompts: Prompts, uniforms: Tensor, at_once: int | None) -> Sampled:
        """Return a response to each prompt.

        Raises:
            SamplingServerFailed: The server that is named in the config gives none.
            TrialFailed: The server that was started here gives none (``sampling_server``).
        """
        if self._stale:
            self._send_weights()
        rows = list(zip(prompts.to_ids(), seeds_of(uniforms), strict=True))
        with ThreadPoolExecutor(min(self._settings.concurrency, at_once or len(rows))) as pool:
            answers = list(pool.map(self._response, rows))
        tokens, log_probs = zip(*answers, strict=True)
        return sampled_of(prompts, tokens, log_probs, self._ends[0])

    def policy_changed(self) -> None:
        """Send the policy's weights before anything else is sampled."""
        self._stale = True

    def close(self) -> None:
        """End the server that was started here, and remove the weights."""
        if self._process is not None:
            self._process.close()
        self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _response(self, asked: tuple[list[int], int]) -> tuple[list[int], list[float]]:
        """Return the tokens of one response and their log-probabilities."""
        prompt, seed = asked
        most = self._sampling.response_tokens
        answer = self._post(
            "v1/completions",
            {
                "model": self._model,
                "prompt": prompt,
                "seed": seed,
                "max_tokens": most,
                # Before the least, no token ends a response.
                "min_tokens": 0 if self._sampling.stop_at_eos else most,
                "stop_token_ids": self._ends,
                "ignore_eos": True,
                "temperature": self._sampling.temperature,
                # The distribution that is trained, whatever the server was started with.
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "logprobs": 0,
                "return_token_ids": True,
            },
        )
        choice = answer["choices"][0]
        tokens, log_probs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        self._check(tokens, log_probs)
        return tokens, log_probs

    def _check(self, tokens: Sequence[int] | None, log_probs: Sequence[float | None]) -> None:
        if not tokens or len(tokens) != len(log_probs) or any(each is None for each in log_probs):
            raise self._failed(f"it answered {len(tokens or ())} tokens with {len(log_probs)} log-probabilities")

    def _write_weights(self) -> None:
        weights = {name: value.to(self._dtype) for name, value in merged_weights(self._policy).items()}
        self._policy.save_pretrained(self._folder, state_dict=weights)

    def _send_weights(self) -> None:
        self._write_weights()
        self._post("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder)}})
        # What older weights computed must not be taken for the new ones'.
        self._post("reset_prefix_cache", {})
        self._stale = False

    def _get(self, path: str) -> Any:
        return self._answer("GET", path, None)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer("POST", path, body)

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        limit = 60 * self._settings.answer_minutes
        try:
            answer = self._session.request(method, f"{self._url}/{path}", json=body, timeout=limit)
        except requests.RequestException as error:
            raise self._failed(f"{type(error).__name__}: {error}") from error
        if answer.status_code == 404 and path == "collective_rpc":
            raise ConfigError(
                f"sampling.vllm.url = {self._settings.url} takes no weights",
                "start the server with VLLM_SERVER_DEV_MODE=1 in its environment",
            )
        if not answer.ok:
            raise self._failed(f"{path} was answered with {answer.status_code}: {' '.join(answer.text.split())[:300]}")
        return answer.json() if answer.content else None

    def _failed(self, what: str) -> TrialFailed:
        if self._process is None:
            return SamplingServerFailed(
                f"sampling.vllm.url = {self._settings.url}: {what}", "see whether vLLM runs there"
            )
        words = "" if self._process.is_running() else f"; vLLM has ended: {self._process.last_words()}"
        return TrialFailed(SamplingServerFailed.REASON, f"vLLM beside the trainer gave no answer: {what}{words}")
