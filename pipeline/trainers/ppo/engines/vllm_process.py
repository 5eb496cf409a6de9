"""A vLLM server beside the trainer: started for one run, and ended with it, whatever ends it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from pipeline.trainers.ppo.engines import tied
from pipeline.trainers.ppo.settings import VllmSettings
from shaping.errors import ConfigError, SamplingServerFailed, TrialFailed

MODULE = "vllm.entrypoints.openai.api_server"
LISTEN_SECONDS = 0.5
# Of its log, that an error shows.
SHOWN_LINES = 8
ENVIRONMENT = {
    # Its server then takes new weights.
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
# GiB that keys and values take where there is no GPU.
CPU_CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}


class VllmProcess:
    """A running server.

    Args:
        model: The folder of what it serves.
        settings: How.
        dtype: The type of its weights, such as ``bfloat16``.
        longest: Tokens of the longest prompt and its response.
        seed: Of what is random in it.
        on_gpu: Whether it has a GPU.

    Attributes:
        url: Where it answers.

    Raises:
        ConfigError: The interpreter has no vLLM.
        TrialFailed: It ended, or was not ready in time (``sampling_server``).
    """

    def __init__(self, model: Path, settings: VllmSettings, dtype: str, longest: int, seed: int, on_gpu: bool) -> None:
        python = settings.python or sys.executable
        self._check(python)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = {
            "model": str(model),
            "dtype": dtype,
            "max-model-len": str(longest),
            "host": "127.0.0.1",
            "port": str(port),
            "seed": str(seed),
            # Nothing that a model's files say of sampling, and the probabilities that were sampled from.
            "generation-config": "vllm",
            "logprobs-mode": "processed_logprobs",
        }
        command = [python, "-m", MODULE, *(part for name, value in options.items() for part in (f"--{name}", value))]
        command += ["--gpu-memory-utilization", str(settings.memory_share)] if on_gpu else ["--enforce-eager"]
        environment = {**({} if on_gpu else CPU_CACHE), **os.environ, **ENVIRONMENT}
        self._log = tempfile.NamedTemporaryFile(prefix="vllm-", suffix=".log")
        self._process = subprocess.Popen(
            [sys.executable, tied.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        self._wait(settings.start_minutes)

    def is_running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """Return the end of its log."""
        lines = Path(self._log.name).read_text(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-SHOWN_LINES:] if line.strip())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _check(self, python: str) -> None:
        found = ("import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)",)
        try:
            lacks = subprocess.run([python, "-c", *found], capture_output=True, check=False).returncode
        except OSError as error:
            raise ConfigError(
                f"sampling.vllm.python = {python} cannot be run: {error.strerror}", "give a Python interpreter"
            ) from error
        if lacks:
            raise ConfigError(
                f"sampling.engine = vllm, but {python} has no vllm",
                "install it in an environment of its own and name that one's interpreter in sampling.vllm.python",
            )

    def _wait(self, minutes: float) -> None:
        until = time.monotonic() + 60 * minutes
        while not self._answers():
            if not self.is_running() or time.monotonic() > until:
                ended = "ended" if not self.is_running() else f"was not ready after {minutes:g} minutes"
                words = self.last_words()
                self.close()
                raise TrialFailed(
                    SamplingServerFailed.REASON,
                    f"vLLM {ended}: {words}",
                    "see what it says; sampling.vllm has its settings",
                )
            time.sleep(LISTEN_SECONDS)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=LISTEN_SECONDS).ok
        except requests.RequestException:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
