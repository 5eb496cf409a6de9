"""Does what a policy learned of our constraints serve it with IFBench's, of kinds that it never saw?

    python -m pip install 'shapetune[bench,instruction,gguf]'
    shapetune train instruction_smollm2 --weight prefix=1 -o runs/prefix
    python -m benchmarks.ifbench prefix=runs/prefix/policy

SmolLM2-135M-Instruct as it comes is always there; policies are sampled with the same random numbers and compared prompt
by prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.common.record import Claim, current_commit, interval, markdown, plain, write
from benchmarks.ifbench.prompts import BenchPrompt, passed, read_ifbench
from pipeline.runtime.console import open_console
from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.models.calibration import own_samples
from pipeline.tasks.models.smollm2 import load_smollm2
from pipeline.tasks.prompt_file import PromptRow
from pipeline.trainers.base import quiet_transformers
from shaping.alignment import texts_of
from shaping.rollouts import unpadded

UNTRAINED = "untrained"
BATCH = 16
ABOUT = (
    "Shares of prompts with 95 % intervals over prompts. Strict: all constraints are fulfilled; loose: a first or last "
    "line and asterisks are forgiven; substantial: strict, and the answer says something, which many of the checkers "
    "do not ask for. The last column is the paired difference of substantial."
)
# Whether each prompt was passed, by measure.
Passed = Mapping[str, Sequence[bool]]


def main() -> None:
    """Sample every policy and write ``results/ifbench.json``."""
    given, commit = _options(), current_commit()
    quiet_transformers()
    prompts, found = read_ifbench(cache_folder())[: given.prompts], dict[str, Passed]()
    console = open_console(stderr=True)
    for name, folder in {UNTRAINED: None, **dict(given.policies)}.items():
        policy, tokenizer = _load(folder)
        texts = answers(policy, tokenizer, prompts, given.tokens, given.temperature, given.seed)
        found[name] = passed(prompts, texts)
        console.print(f"{name}: {sum(found[name]['strict'])} of {len(prompts)} strict", markup=False)
    about = (
        f"{len(prompts)} prompts, answers of up to {given.tokens} tokens at temperature {given.temperature:g}, seed "
        f"{given.seed}. {ABOUT}"
    )
    details = {name: getattr(given, name) for name in ("tokens", "temperature", "seed")}
    write("ifbench", claims(found), f"{about}\n\n{table(found)}", details, commit)


def claims(found: Mapping[str, Passed]) -> list[Claim]:
    """Return every policy's pass rates, and those of trained ones over the untrained one's."""
    rates = [
        Claim.of(f"ifbench.{plain(name)}.{measure}", every)
        for name, of in found.items()
        for measure, every in of.items()
    ]
    return rates + [
        _over_untrained(f"ifbench.{plain(name)}.{measure}_over_untrained", found, name, measure)
        for name, of in found.items()
        if name != UNTRAINED
        for measure in of
    ]


def _over_untrained(title: str, found: Mapping[str, Passed], name: str, measure: str) -> Claim:
    pairs = zip(found[name][measure], found[UNTRAINED][measure], strict=True)
    return Claim.of(title, [float(ours) - float(theirs) for ours, theirs in pairs])


def table(found: Mapping[str, Passed]) -> str:
    """Return the pass rates, a policy a row."""
    rows = []
    for name, of in found.items():
        cells = [interval(Claim.of("", every), ".3f") for every in of.values()]
        over = "" if name == UNTRAINED else interval(_over_untrained("", found, name, "substantial"))
        rows.append((name, *cells, over))
    return markdown(("policy", *found[UNTRAINED], "over untrained"), rows)


def answers(
    policy: PreTrainedModel, tokenizer: Any, prompts: list[BenchPrompt], tokens: int, temperature: float, seed: int
) -> list[str]:
    """Return the policy's sampled answer to each prompt."""
    chats = [PromptRow("IFBench", None, prompt.text).as_chat().ids(tokenizer) for prompt in prompts]
    found = own_samples(policy, chats, tokens, int(tokenizer.eos_token_id), True, seed, temperature, BATCH)
    return texts_of(tokenizer, unpadded(found.response_ids, found.response_mask))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", type=named_folder, metavar="NAME=FOLDER", help="of trained policies")
    parser.add_argument("--prompts", type=int, default=None, help="only the first so many")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def named_folder(given: str) -> tuple[str, Path]:
    """Return what ``NAME=FOLDER`` says.

    Raises:
        argparse.ArgumentTypeError: It says something else, or no policy is there.
    """
    name, sign, folder = given.partition("=")
    if not sign or not name or name == UNTRAINED:
        raise argparse.ArgumentTypeError(f"'{given}' is not NAME=FOLDER; '{UNTRAINED}' is measured without being named")
    if not (Path(folder) / "config.json").exists():
        raise argparse.ArgumentTypeError(f"{folder} holds no policy: name the folder 'policy' of a run")
    return name, Path(folder)


def _load(folder: Path | None) -> tuple[PreTrainedModel, Any]:
    if folder is None:
        return load_smollm2(cache_folder())
    policy = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    return policy.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


if __name__ == "__main__":
    main()
