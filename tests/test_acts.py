"""An adapter steers whatever runs the model, compiled or not; where it cannot act it is refused."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import CompileConfig, StaticCache, pipeline

from pipeline import answers, steer
from pipeline.scoring.score import score
from pipeline.scoring.wording import dilemma_prompt
from pipeline.steering.hooks import attached
from pipeline.steering.methods.mean_diff import MeanDiff
from pipeline.steering.saved import check_fits
from pipeline.support.errors import InputError
from tests.test_export import SHAPES, planted_svd

IDS = torch.arange(40, 52)[None]
CHAT = [{"role": "user", "content": "Who are you?"}]
ITEMS = [{"item_id": "one", "prompt": dilemma_prompt("You broke a lamp.", "lie about it")}]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=["mean_diff", "innerpissa"])
def adapter(request, model):
    if request.param == "innerpissa":
        return planted_svd(model, SHAPES[0])
    drawn = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    return MeanDiff(["model.layers.1", "model.layers.2"], 4 * drawn)


def by_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")


def by_layer(model):
    for layer in model.model.layers:
        layer.forward = torch.compile(layer.forward, backend="eager")


def by_compile(model):
    model.compile(backend="eager")


def by_decoder(model):
    model.model.compile(backend="eager")


slow = [pytest.param(how, marks=pytest.mark.slow) for how in (by_layer, by_compile, by_decoder)]
compiled = pytest.mark.parametrize("compiling", [by_forward, *slow])


@torch.no_grad()
def logits(model, ids=IDS):
    return model(input_ids=ids).logits


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@compiled
def test_a_compiled_model_is_steered_and_restored(compiling, model, adapter):
    plain = logits(model)
    with steer(model, adapter, 1.0):
        steered = logits(model)
    assert (steered - plain).abs().max() > 0.05
    compiling(model)
    close(logits(model), plain)
    for _ in range(2):
        with steer(model, adapter, 1.0):
            close(logits(model), steered)
        close(logits(model), plain)


def test_a_model_compiled_inside_of_the_block_is_restored(model, adapter):
    plain = logits(model)
    with steer(model, adapter, 1.0):
        steered = logits(model)
        by_forward(model)
        close(logits(model), steered)
    close(logits(model), plain)


def test_the_wrapper_of_a_compiled_model_is_steered(model, adapter):
    plain = logits(model)
    with steer(model, adapter, 1.0):
        steered = logits(model)
    wrapper = torch.compile(model, backend="eager")
    close(logits(wrapper), plain)
    with steer(wrapper, adapter, 1.0):
        close(logits(wrapper), steered)
    close(logits(wrapper), plain)


WAYS = {
    "greedy": {},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 2},
    "no cache": {"use_cache": False},
    "looked up": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize(
    "way", [way if way == "static" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
@pytest.mark.parametrize("adapter", ["mean_diff"], indirect=True)
def test_every_way_of_generating_is_steered_where_decoding_was_compiled(way, model, adapter):
    def generate(**settings):
        return model.generate(
            input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=12,
            min_new_tokens=12, do_sample=False, pad_token_id=0, **settings,
        )  # fmt: skip

    own = WAYS[way]
    plain = generate(**own)
    with steer(model, adapter, 1.5):
        steered = generate(**own)
        assert way == "beams" or steered.equal(generate())
    assert not steered.equal(plain)
    compiling = CompileConfig(backend="eager", fullgraph=False)
    compiling._compile_all_devices = True
    by_forward(model)
    if way == "static":
        own = own | {"compile_config": compiling}
    assert generate(**own).equal(plain)
    with steer(model, adapter, 1.5):
        assert generate(**own).equal(steered)
    assert generate(**own).equal(plain)


def test_a_static_cache_of_ones_own_is_steered_token_by_token(model, adapter):
    def decode():
        cache = StaticCache(config=model.config, max_cache_len=IDS.shape[1])
        steps = []
        with torch.no_grad():
            for t in range(IDS.shape[1]):
                place = torch.tensor([[t]])
                output = model(IDS[:, t : t + 1], past_key_values=cache, position_ids=place)
                steps.append(output.logits)
        return torch.cat(steps, dim=1)

    by_forward(model)
    plain = logits(model)
    close(decode(), plain)
    with steer(model, adapter, 1.0):
        close(decode(), logits(model))
    with attached(model, adapter.hooks(model, 1.0)):
        assert (decode() - plain).abs().max() > 0.05


@pytest.mark.slow
def test_transformers_own_pipeline_is_steered(model, adapter, tokenizer):
    run = pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
    by_forward(model)
    plain = run("I saw the lamp", **settings)
    with steer(model, adapter, 1.5):
        steered = run("I saw the lamp", **settings)
    assert steered != plain == run("I saw the lamp", **settings)


@pytest.mark.parametrize("compiling", [by_forward])
def test_answers_and_scores_of_a_compiled_model_are_steered(compiling, base, adapter):
    def both():
        *_, texts = answers(base, adapter, CHAT, [-1.5, 0.0, 1.5], 8)
        return texts, score(base, ITEMS, adapter, [-1.0, 0.0, 1.0])

    texts, records = both()
    compiling(base.model)
    logits(base.model)
    again, figures = both()
    assert again == texts
    for own, other in zip(records, figures, strict=True):
        assert own["log_odds"] == pytest.approx(other["log_odds"], abs=1e-4)


def passing_by(model):
    """Run a copy's layers and not the model's own, as captured graphs and fused code do."""
    model.forward = deepcopy(model).forward


@pytest.mark.parametrize("way", ["steer", "answers", "score", "load"])
def test_where_hooks_would_not_run_it_is_refused_in_one_sentence(way, base, adapter, tmp_path):
    passing_by(base.model)
    with pytest.raises(InputError, match="steering would not act") as found:
        {
            "steer": lambda: steer(base.model, adapter, 1.0),
            "answers": lambda: next(answers(base, adapter, CHAT, [0.0, 1.0], 4)),
            "score": lambda: score(base, ITEMS, adapter, [0.0, 1.0]),
            "load": lambda: check_fits(base.model, adapter, tmp_path),
        }[way]()
    assert "\n" not in str(found.value)
    assert not any(module._forward_hooks for module in base.model.modules())


def test_a_model_is_tried_once_and_again_when_its_code_changes(model, adapter):
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    for _ in range(2):
        steer(model, adapter, 1.0)
    assert len(runs) == 1
    layer = model.model.layers[2]
    layer.forward = layer.forward
    steer(model, adapter, 1.0)
    assert len(runs) == 2
    passing_by(model)
    with pytest.raises(InputError, match="steering would not act"):
        steer(model, adapter, 1.0)


def test_an_adapter_that_moves_nothing_is_refused_when_it_is_loaded(model, tmp_path):
    with pytest.raises(InputError, match="does not act"):
        check_fits(model, MeanDiff(["model.layers.1"], torch.zeros(1, 64)), tmp_path)


def test_a_model_without_the_adapters_modules_is_refused(model):
    with pytest.raises(InputError, match="has not the adapter's modules"):
        steer(model, MeanDiff(["model.blocks.1"], torch.ones(1, 64)), 1.0)


def test_two_threads_cannot_steer_one_model_at_once(model, adapter):
    def turned_down():
        with steer(model, adapter, -1.0):
            return logits(model)

    plain = logits(model)
    with steer(model, adapter, 1.0):
        steered = logits(model)
        with ThreadPoolExecutor(1) as other:
            close(other.submit(logits, model).result(), steered)
            with pytest.raises(InputError, match="another thread steers this model"):
                other.submit(turned_down).result()
        turned_down()
        close(logits(model), steered)
    close(logits(model), plain)
    with ThreadPoolExecutor(1) as other:
        close(other.submit(turned_down).result(), turned_down())


@pytest.mark.parametrize("c", [np.float32(1), np.array([1.0]), torch.tensor(1), [1]])
def test_a_coefficient_may_be_of_any_type_of_number(c, model, adapter):
    with steer(model, adapter, 1.0):
        steered = logits(model)
    with steer(model, adapter, c):
        close(logits(model), steered)


@pytest.mark.parametrize("c", ["one", ["1"], None, [], [[1.0]], float("nan"), [1.0, float("inf")]])
def test_a_coefficient_that_is_no_number_is_refused(c, model, adapter):
    with pytest.raises(InputError, match="give a finite number, or one per row"):
        steer(model, adapter, c)


@pytest.mark.parametrize(
    ("chat", "coefficients", "said"),
    [
        (CHAT, 1.0, "coefficients 1.0 cannot be used"),
        (CHAT, ["1"], r"coefficients \['1'\] cannot be used"),
        ([], [1.0], "messages .* is no chat"),
        ("Who are you?", [1.0], "messages .* is no chat"),
    ],
)
def test_answers_refuse_what_is_no_chat_and_no_list(chat, coefficients, said, base, adapter):
    with pytest.raises(InputError, match=said):
        next(answers(base, adapter, chat, coefficients, 3))
