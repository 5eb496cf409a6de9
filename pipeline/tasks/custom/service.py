"""A reward model behind an address: asked in requests side by side, again where one fails, once for each text.

A server that restarts, hangs or answers nonsense must cost time, never a wrong score. So an answer is either what its
interface says, for exactly the texts that were sent, or the request is made again; and when patience has an end, the
study stops under the name of what failed, to be resumed by the same command.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipeline.tasks.custom.interfaces import INTERFACES, GarbledAnswer
from pipeline.tasks.model_settings import ServiceSettings
from shaping.errors import ConfigError, ServiceFailed

logger = logging.getLogger(__name__)

# Statuses by which a server says that it is busy or broken, and not that the request is wrong.
PASSING = {408, 425, 429, 500, 502, 503, 504}


class _PassingStatus(Exception):
    """A server says that it is busy or broken."""


class RewardService:
    """A reward function of prompts and responses that asks a server.

    Args:
        url: What is asked.
        settings: How.
        field: Its place in the config, for messages.

    Raises:
        ConfigError: The variable that is to hold the key is not set.
    """

    def __init__(self, url: str, settings: ServiceSettings, field: str) -> None:
        self.url, self.settings, self._field = url, settings, field
        self._interface = INTERFACES[settings.interface]
        self._headers = self._key()
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=settings.concurrency)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    @property
    def texts_at_once(self) -> int:
        """How many texts keep all requests under way busy."""
        return 4 * self.settings.batch_size * self.settings.concurrency

    @property
    def asked(self) -> tuple[object, ...]:
        """What decides a score, beside the model that is served."""
        settings = self.settings
        request = sorted(settings.request.items())
        return (settings.interface, settings.served_model, settings.text, settings.label, request)

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        """Return the score of each response, in their order.

        Raises:
            ConfigError: The server refuses the request itself.
            ServiceFailed: It gave no usable answer in all attempts.
        """
        texts = list(zip(prompts, responses, strict=True))
        found = {text: self._known[text] for text in texts if text in self._known}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        size = self.settings.batch_size
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        given_up = Event()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            asked = [pool.submit(self._asked, batch, given_up) for batch in batches]
            try:
                for batch, scores in zip(batches, asked, strict=True):
                    found.update(zip(batch, scores.result(), strict=True))
            finally:
                given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
        self._keep(found)
        return [found[text] for text in texts]

    def _keep(self, found: dict[tuple[str, str], float]) -> None:
        for text, score in found.items():
            self._known[text] = score
            self._known.move_to_end(text)
        while len(self._known) > self.settings.kept_texts:
            self._known.popitem(last=False)

    def _asked(self, batch: Sequence[tuple[str, str]], given_up: Event) -> list[float]:
        attempts = self.settings.retries + 1
        if given_up.is_set():
            # It waited in line, and would be refused as slowly as the one before.
            raise CancelledError
        retrying = Retrying(
            retry=retry_if_exception_type((requests.RequestException, _PassingStatus, GarbledAnswer)),
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.5, max=self.settings.longest_wait_seconds),
            before_sleep=self._note,
            reraise=True,
        )
        try:
            scores: list[float] = retrying(self._once, batch)
            return scores
        except (requests.RequestException, _PassingStatus, GarbledAnswer) as error:
            given_up.set()
            raise ServiceFailed(
                f"{self._field}.url = {self.url} gave no usable answer in {attempts} attempts: {_words(error)}",
                f"see whether {self._interface.serves} runs there; the same command then resumes",
            ) from error

    def _once(self, batch: Sequence[tuple[str, str]]) -> list[float]:
        settings, (prompts, responses) = self.settings, zip(*batch, strict=True)
        body = {**self._interface.ask(settings, prompts, responses), **settings.request}
        answer = self._session.post(self.url, json=body, headers=self._headers, timeout=settings.timeout_seconds)
        if answer.status_code in PASSING:
            raise _PassingStatus(f"status {answer.status_code}: {_short(answer.text)}")
        if not answer.ok:
            raise ConfigError(
                f"{self._field}.url = {self.url} refuses the request: status {answer.status_code}: "
                f"{_short(answer.text)}",
                f"see whether service.interface = {settings.interface} is what the server speaks, and which model it "
                "serves",
            )
        try:
            parsed = answer.json()
        except requests.exceptions.JSONDecodeError as error:
            raise GarbledAnswer(f"is no JSON: {_short(answer.text)}") from error
        return self._interface.read(settings, parsed, len(batch))

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        logger.warning("%s, attempt %d: %s", self.url, state.attempt_number, _words(error))

    def _key(self) -> dict[str, str]:
        name = self.settings.api_key_variable
        if name is None:
            return {}
        if not os.environ.get(name):
            raise ConfigError(
                f"{self._field}.service.api_key_variable = {name}, but no such environment variable is set",
                f"export {name} before the command, on every machine that runs trials",
            )
        return {"Authorization": f"Bearer {os.environ[name]}"}


def _words(error: BaseException | None) -> str:
    if isinstance(error, GarbledAnswer):
        return f"its answer {error}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return _short(str(error))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:160]} ..."
