"""Models that compute more than their row: each is right, by the raw library on the text alone, or refused by name."""

import copy
import itertools

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.families.build import tiny_classifier as family
from benchmarks.families.verdict import FramingTokenizer, kept_rows, rollouts, some_variants, whole_row
from shaping import CausalRewardModel, ConfigError, EncoderRewardModel, Rollouts, ShapeError, Shaper
from shaping.credit import METHODS
from shaping.credit.base import check_served
from shaping.shape import Shape
from shaping.variants import Variants
from tests.support.models.tiny_families import tiny_family, word_tokenizer
from tests.support.models.tiny_models import EOS, tiny_classifier, tiny_config, tiny_tokenizer

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
LONGROPE |= {"short_factor": [1.0] * 4, "long_factor": [1.5, 4.0, 20.0, 50.0], "factor": 8.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 24}


def long_rotary():
    options = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16, "sliding_window": None}
    return family("phi3", **options)


@torch.no_grad()
def own(model, ids):
    return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


def check_scores(model, batch=None):
    """Hold all that a model scores against the library's own forward on each text alone."""
    batch = rollouts() if batch is None else batch
    for variants, found in (
        (some_variants(batch, "delete"), None),
        (Variants.prefixes(batch), model.prefix_scores(batch).flatten()),
    ):
        found = model.score(variants).values if found is None else found
        expected = [own(model.model, prompt + kept) for prompt, kept in kept_rows(variants)]
        assert found.tolist() == pytest.approx(expected, abs=2e-4)


def mean_pooled():
    class MeanPooled(type(tiny_classifier())):
        def forward(self, input_ids=None, **given):
            hidden = self.model(input_ids=input_ids, **given).last_hidden_state
            return SequenceClassifierOutput(logits=self.score(hidden.mean(dim=1)))

    torch.manual_seed(1)
    return MeanPooled(tiny_config(num_labels=1)).eval()


def squashed():
    class Squashed(type(tiny_classifier())):
        def forward(self, *args, **given):
            output = super().forward(*args, **given)
            output.logits = 4 * torch.sigmoid(output.logits)
            return output

    torch.manual_seed(1)
    return Squashed(tiny_config(num_labels=1)).eval()


def deep_head():
    model = tiny_classifier()
    model.score = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    return model.requires_grad_(False)


def both_ways():
    model = tiny_classifier()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    model.config.is_causal = False
    return model


ODD = {
    "rotary factors chosen by the longest row": lambda: long_rotary(),
    "a temperature by place": lambda: family(
        "llama4_text", attn_temperature_tuning=True, floor_scale=4, attn_scale=2.0, no_rope_layers=[0, 0]
    ),
    "chunks": lambda: family("llama4_text", attention_chunk_size=8, layer_types=["chunked_attention"] * 2),
    "a recurrent state": lambda: family("rwkv"),
    "another recurrent state": lambda: family("mamba"),
    "a hybrid": lambda: family("jamba"),
    "attention in both directions": lambda: family("gemma3_text", use_bidirectional_attention=True),
    "a config that says so": both_ways,
    "mean pooling": mean_pooled,
    "a sigmoid behind the head": squashed,
    "a head of several layers": deep_head,
    "padding that is end-of-sequence": lambda: tiny_family("Llama", 120, pad_token_id=EOS),
    "a nested config": lambda: family("gemma3"),
}


@pytest.mark.parametrize("kind", ODD)
def test_scores_and_prefixes_are_those_of_each_text_alone(kind):
    check_scores(CausalRewardModel(ODD[kind](), name="judge"))


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Qwen3"])
def test_a_score_is_read_where_the_library_reads_it_before_padding(name):
    model = CausalRewardModel(tiny_family(name, 120, pad_token_id=EOS), name="judge")
    batch = Rollouts.of_ids([[5, 6, 7], [8, 9, EOS], [8]], [[10, 11, EOS], [EOS, EOS], [EOS, 12, EOS, 13, 14]])
    check_scores(model, batch)
    assert model.shares_work
    attended = model.response_attention(batch)
    row = torch.tensor([[5, 6, 7, 10, 11]])
    with torch.no_grad():
        model.model.set_attn_implementation("eager")
        maps = model.model(input_ids=row, output_attentions=True).attentions[-1][0].mean(dim=0)[-1, 3:]
    assert attended[0, :2].tolist() == pytest.approx((maps / maps.sum()).tolist(), abs=1e-4)
    assert attended[0, 2] == 0


def test_a_score_cannot_be_read_at_what_the_library_takes_for_padding():
    with pytest.raises(ConfigError, match=r"judge is to be read at token 2, which is its padding") as refused:
        CausalRewardModel(tiny_family("Llama", pad_token_id=EOS), name="judge", eos_token_id=EOS)
    assert "pad_token_id" in refused.value.hint


def test_rows_beyond_what_was_tried_are_tried_again(caplog):
    classifier = long_rotary()
    model = CausalRewardModel(classifier, name="judge")
    short = Rollouts.of_ids([[5, 6], [7]], [[8, 9, 10, 11], [12, 13]])
    check_scores(model, short)
    assert model.shares_work and not [line for line in caplog.messages if "judge" in line]
    check_scores(model)
    assert not model.shares_work


def test_rotary_positions_that_remember_longer_rows_have_the_context_up_to_which_they_do_not():
    classifier = family("llama", rope_parameters=DYNAMIC, max_position_embeddings=24)
    model = CausalRewardModel(classifier, name="judge")
    check_scores(model, Rollouts.of_ids([[5] * 4], [[6, 7, 8, 9]]))
    with pytest.raises(ShapeError, match="judge has a context of 24"):
        model.score(Variants.whole(Rollouts.of_ids([[5] * 20], [[6] * 10])))


@pytest.mark.parametrize("seed", range(6))
def test_in_bfloat16_a_bias_by_distance_is_never_left_out(seed):
    half = family("bloom", seed=seed).bfloat16()
    model, exact = CausalRewardModel(half), copy.deepcopy(half).float()
    variants = some_variants(rollouts(seed), "delete")
    found = model.score(variants).values
    rows = [prompt + kept for prompt, kept in kept_rows(variants)]
    truth, rounded = (torch.tensor([own(each, row) for row in rows]) for each in (exact, half))
    noise = float((rounded - truth).square().mean().sqrt())
    assert float((found - truth).square().mean().sqrt()) < 2 * noise


def test_a_model_put_into_training_mode_later_scores_as_before():
    classifier = tiny_family("GPT2", 120, resid_pdrop=0.5, embd_pdrop=0.5)
    model = CausalRewardModel(classifier, name="judge")
    before = model.score(some_variants(rollouts(), "delete")).values
    classifier.train()
    assert torch.equal(model.score(some_variants(rollouts(), "delete")).values, before)
    classifier.train()
    whole = [list(itertools.chain(*whole_row(rollouts(), row))) for row in range(len(rollouts()))]
    expected = [own(classifier.eval(), ids) for ids in whole]
    classifier.train()
    assert model.prefix_scores(rollouts())[:, -1].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_model_that_gives_one_text_two_scores_is_refused():
    classifier = tiny_classifier()
    forward = classifier.forward
    classifier.forward = lambda *args, **given: SequenceClassifierOutput(
        logits=forward(*args, **given).logits + torch.rand(1)
    )
    with pytest.raises(ConfigError, match="judge gives one text two values"):
        CausalRewardModel(classifier, name="judge").score(some_variants(rollouts(), "delete"))


ATTENTION_OF_NOTHING = {
    "jamba": "attention maps for",
    "rwkv": "no map from each token to each",
    "mamba": "no attention",
}


@pytest.mark.parametrize("kind", ATTENTION_OF_NOTHING)
def test_attention_that_is_no_map_of_the_sequence_is_refused_when_the_shaper_is_made(kind):
    model = CausalRewardModel(family(kind), name="judge")
    with pytest.raises(ConfigError, match=f"weights.attention: the reward model judge.*{ATTENTION_OF_NOTHING[kind]}"):
        Shaper(Shape(weights={"attention": 1.0}), model, tiny_tokenizer())


NO_GRADIENT = {"gemma3n_text": "in more tables", "deepseek_v4": "its code fails"}


@pytest.mark.parametrize("kind", NO_GRADIENT)
def test_a_gradient_of_another_function_is_refused_when_the_shaper_is_made(kind):
    model = CausalRewardModel(family(kind), name="judge")
    with pytest.raises(ConfigError, match=f"weights.gradient: the reward model judge.*{NO_GRADIENT[kind]}"):
        Shaper(Shape(weights={"gradient": 1.0}), model, tiny_tokenizer())


ENCODERS = {
    "esm": {"gradient": "from embeddings in place of tokens"},
    "longformer": {"attention": "", "gradient": "its code fails"},
    "eurobert": {"attention": "its score is read at tokens"},
    "fnet": {"attention": "gives no attention", "absent_attention": "a hidden token still moves"},
    "bart": {"attention": "", "gradient": "Passing input embeddings"},
    "t5": {"attention": "", "gradient": "Passing input embeddings"},
    "modernbert-decoder": {"attention": "its score is read at tokens"},
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_an_encoder_cannot_serve_is_known_when_the_shaper_is_made(kind):
    model = EncoderRewardModel(family(kind), FramingTokenizer(), name="judge")
    for name, reason in ENCODERS[kind].items():
        assert reason in model.lacking[name]
        if name in METHODS:
            with pytest.raises(ConfigError, match=f"weights.{name}"):
                check_served([METHODS[name]], model, Shape(weights={name: 1.0}))


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def adapted():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny_classifier(), LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS"))


WRAPPED = {
    "in parallel": (lambda: Wrapped(tiny_classifier()), "model.module"),
    "compiled": (lambda: torch.compile(tiny_classifier()), "_orig_mod"),
    "adapted": (adapted, "merge_and_unload"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_model_is_refused_with_a_line(kind):
    make, remedy = WRAPPED[kind]
    with pytest.raises(ConfigError, match=r"reward model judge is a .*, not a model of transformers") as refused:
        CausalRewardModel(make(), name="judge")
    assert remedy in refused.value.hint
    with pytest.raises(ConfigError, match="not a model of transformers"):
        EncoderRewardModel(make(), word_tokenizer(), name="judge")


LIMITS = {"xlnet": None, "xlm": 128, "esm": 127, "roberta": 127, "mpt": 128, "opt": 128, "gpt2": 128}


@pytest.mark.parametrize("kind", LIMITS)
def test_the_context_is_what_the_model_has_positions_for(kind):
    classifier = family(kind)
    if hasattr(classifier, "score"):
        model, frame = CausalRewardModel(classifier, name="judge"), 0
    else:
        model, frame = EncoderRewardModel(classifier, FramingTokenizer(), name="judge"), 2
    assert model.context == LIMITS[kind]
    longest = (LIMITS[kind] or 140) - frame
    batch = Rollouts.of_ids([[5] * (longest - 3)], [[6, 7, 8]])
    assert bool(torch.isfinite(model.score(Variants.whole(batch)).values).all())
    if LIMITS[kind] is not None:
        with pytest.raises(ShapeError, match=f"a context of {LIMITS[kind]}"):
            model.score(Variants.whole(Rollouts.of_ids([[5] * (longest - 2)], [[6, 7, 8]])))


def test_a_folder_without_a_trained_head_is_refused(tmp_path):
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config()).save_pretrained(tmp_path / "language")
    tiny_classifier().model.save_pretrained(tmp_path / "backbone")
    for name in ("language", "backbone"):
        with pytest.raises(ConfigError, match=f"reward model {name} has no weights for score.weight"):
            CausalRewardModel.from_pretrained(tmp_path / name)


def test_weights_of_a_head_that_would_be_dropped_are_refused(tmp_path):
    model = tiny_classifier()
    model.score = nn.Linear(16, 1, bias=True)
    model.save_pretrained(tmp_path / "biased")
    with pytest.raises(ConfigError, match=r"reward model biased has weights named score\.bias"):
        CausalRewardModel.from_pretrained(tmp_path / "biased")


def test_an_adapter_is_refused_unless_it_or_its_base_holds_the_head(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM(tiny_config())
    base.save_pretrained(tmp_path / "base")
    tiny_classifier().save_pretrained(tmp_path / "whole")
    options = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False}
    for name, kind in (("base", "FEATURE_EXTRACTION"), ("whole", "FEATURE_EXTRACTION")):
        model = tiny_classifier()
        model.name_or_path = model.config._name_or_path = str(tmp_path / name)
        get_peft_model(model, LoraConfig(task_type=kind, **options)).save_pretrained(tmp_path / f"on {name}")
    with pytest.raises(ConfigError, match="on base"):
        CausalRewardModel.from_pretrained(tmp_path / "on base")
    assert CausalRewardModel.from_pretrained(tmp_path / "on whole").name == "on whole"
