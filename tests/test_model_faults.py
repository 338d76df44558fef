"""Models that are not what they seem: each fault is one line when the model is loaded, and a check of `doctor`."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptthink import api
from adaptthink.engines.base import NonFiniteError, Request
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.rounds import Continuation, ContinuationRequest, check_continuation
from adaptthink.engines.sampling import sample_tokens
from adaptthink.errors import UserError
from adaptthink.models.loading import TINY, load_policy, read_eos_ids
from adaptthink.modes import probe

TENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYER = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded model, to be damaged."""
    shutil.copytree(TINY, tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        path.chmod(0o644)
    return tmp_path / "model"


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, share):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def configure(name, **values):
    def damage(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | values))

    return damage


def change(function):
    """Change the tensors of the file."""

    def damage(folder):
        tensors = load_file(folder / TENSORS)
        function(tensors)
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})

    return damage


def fill(name, value):
    return change(lambda tensors: tensors[name].view(-1).__setitem__(-1, value))


def rename(tensors):
    tensors[LAYER + "_old"] = tensors.pop(LAYER)


def shard(folder, *, without=None, weight_map=None):
    """Divide the tensors between two files, of which one may be missing."""
    tensors = load_file(folder / TENSORS)
    (folder / TENSORS).unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for place in sorted(set(places.values()) - {without}):
        part = {name: tensors[name] for name in tensors if places[name] == place}
        save_file(part, folder / place, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map or places}))


JSON = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
DAMAGES = {
    **{f"{name}: {content}": write(name, content) for name in JSON for content in (b"", b"\x00\xff", b"[1]", b"null")},
    **{f"{name} is cut": cut(name, 0.6) for name in JSON},
    "an empty config": write("config.json", b"{}"),
    "an empty tokenizer": write("tokenizer.json", b"{}"),
    **{
        f"{key} = {value!r}": configure("config.json", **{key: value})
        for key, value in {
            "vocab_size": 301, "hidden_size": "wide", "num_hidden_layers": 1, "num_attention_heads": None,
            "intermediate_size": 1, "rms_norm_eps": "small", "hidden_act": "nope", "model_type": "nope",
            "rope_parameters": [1], "num_key_value_heads": 0, "max_position_embeddings": -1, "layer_types": "full",
        }.items()
    },
    "more layers than there are": configure("config.json", num_hidden_layers=9, layer_types=None),
    "fewer layers than there are": configure("config.json", num_hidden_layers=1, layer_types=None),
    **{
        f"eos_token_id = {value!r}": configure("generation_config.json", eos_token_id=value)
        for value in ("<|eos|>", [294, "x"], {"a": 1}, -5, 2.5, True, 10**6, [294, 299])
    },
    "the end token closes the thinking": configure("tokenizer_config.json", eos_token="</think>"),
    "a tokenizer's end token that is a number": configure("tokenizer_config.json", eos_token=5),
    **{f"tensors cut at {share}": cut(TENSORS, share) for share in (0, 0.001, 0.5, 0.99)},
    "no tensor file": write(TENSORS, b"no tensors at all, but some text" * 9),
    "no tensors": lambda folder: (folder / TENSORS).unlink(),
    "a missing tensor": change(lambda tensors: tensors.pop(LAYER)),
    "a renamed tensor": change(rename),
    "a tensor of another shape": change(lambda tensors: tensors.update({LAYER: torch.zeros(3, 3)})),
    "a bias without a place": change(lambda tensors: tensors.update({LAYER.replace("weight", "bias"): torch.zeros(3)})),
    **{f"a weight of {value}": fill(LAYER, value) for value in (float("nan"), float("inf"), float("-inf"))},
    "the last embedding is not finite": fill("model.embed_tokens.weight", float("nan")),
    "a missing shard": lambda folder: shard(folder, without="model-00002-of-00002.safetensors"),
    "an index of other files": lambda folder: shard(folder, weight_map={LAYER: "nope.safetensors"}),
    "an index of numbers": lambda folder: shard(folder, weight_map={LAYER: 5}),
    "an index without a map": lambda folder: (shard(folder), (folder / INDEX).write_text("{}")),
    "a broken template": write("chat_template.jinja", b"{% for m in messages %}"),
    "a template of another type": write("chat_template.jinja", b"{{ messages[0].content + 5 }}"),
    "a template that is no text": write("chat_template.jinja", b"\xff\xfe\x00"),
    "code of its own": configure("config.json", model_type="nope", auto_map={"AutoConfig": "configuration_x.X"}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_line_at_load_and_a_check_of_doctor(model, damage, capfd):
    DAMAGES[damage](model)
    with pytest.raises(UserError) as caught:
        load_policy(str(model))
    line = str(caught.value)
    with pytest.raises(UserError) as of_generation:
        load_policy(str(model), generation_only=True)
    assert str(of_generation.value) == line
    assert "\n" not in line
    assert 20 < len(line) < 600
    diagnosis = api.doctor(str(model))
    assert [check.value for check in diagnosis.checks if not check.ok] == [line]
    assert not diagnosis.ok
    assert capfd.readouterr() == ("", "")  # none of the libraries' warnings, and no question whether to trust code


HARMLESS = {
    "as it is": lambda folder: None,
    "a value head": change(lambda tensors: tensors.update({"v_head.summary.weight": torch.zeros(1, 4)})),
    "old buffers": change(
        lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})
    ),
    "half precision": change(lambda tensors: tensors.update({name: one.half() for name, one in tensors.items()})),
    "in shards": shard,
    "without a generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "two end tokens": configure("generation_config.json", eos_token_id=[294, 295]),
}


@pytest.mark.parametrize("difference", HARMLESS)
def test_a_model_that_differs_without_harm_is_ready(model, difference):
    HARMLESS[difference](model)
    diagnosis = api.doctor(str(model))
    assert diagnosis.ok, diagnosis.checks
    names = [check.name for check in diagnosis.checks]
    assert {"tensors", "weights", "token ids", "end tokens", "logits"} <= set(names)


def test_tied_weights_may_be_in_the_file_once(tmp_path):
    load_policy("tiny").save(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / TENSORS)
    assert api.doctor(str(tmp_path / "tied")).ok


def test_what_is_wrong_is_named(model):
    for damage, words in {
        "a missing tensor": f"lack 1 of its tensors ({LAYER})",
        "a bias without a place": f"hold 1 weights that its config.json has no place for ({LAYER[:-6]}bias)",
        "fewer layers than there are": "weights that its config.json has no place for (model.layers.1",
        "a tensor of another shape": f"another shape than config.json says ({LAYER}: (3, 3), not",
        "a weight of nan": f"are not finite: {LAYER} holds NaN or infinity",
    }.items():
        shutil.rmtree(model)
        shutil.copytree(TINY, model)
        DAMAGES[damage](model)
        with pytest.raises(UserError) as caught:
            load_policy(str(model))
        assert words in str(caught.value)


def test_tokens_of_the_chat_template_beyond_the_embeddings_are_found(tmp_path):
    """Chat tokens that were added to a tokenizer after the model was made."""
    policy = load_policy("tiny")
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    policy.tokenizer.chat_template = "<|turn|>" + policy.tokenizer.chat_template
    policy.save(tmp_path / "late")
    with pytest.raises(UserError, match=r"has \d+ embeddings, but its tokenizer's '<\|turn\|>' has id \d+; resize"):
        load_policy(str(tmp_path / "late"))


# ---- end tokens ------------------------------------------------------------------------------------------------------


def test_the_token_that_the_template_ends_turns_with_ends_responses(model):
    """A base model's end token, under a template that ends turns with another."""
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ eos_token }}", "<|eos|>"))
    configure("tokenizer_config.json", eos_token="<|pad|>")(model)
    for name in ("config.json", "generation_config.json"):
        configure(name, eos_token_id=295)(model)
    policy = load_policy(str(model))
    assert set(policy.eos_ids) == {294, 295}
    [found] = [check for check in api.doctor(policy).checks if check.name == "end tokens"]
    assert "ends turns with '<|eos|>', which the model's files do not list" in found.value


def test_configured_end_tokens_stay_as_they_are_where_the_template_writes_one_of_them(tokenizer):
    template = probe(tokenizer)
    assert template.turn_end_ids[0] == tokenizer.eos_token_id
    assert read_eos_ids(None, tokenizer, template) == (tokenizer.eos_token_id,)


# ---- logits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [300, 5000])  # searched in one step, and in two
def test_a_row_of_nan_gets_some_token(vocabulary):
    logprobs = torch.full((2, vocabulary), float("nan"))
    logprobs[1] = torch.zeros(vocabulary).log_softmax(-1)
    nan, uniform = sample_tokens(logprobs, torch.tensor([0.5, 0.5])).tolist()
    assert 0 <= nan < vocabulary
    assert abs(uniform - vocabulary / 2) <= 1


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_one_line(random_model, value, top_p):
    """As after an update that went wrong: the weights were finite when the model was loaded."""
    random_model.lm_head.weight.data[7] = value
    engine = NativeEngine(random_model, (294,))
    with pytest.raises(NonFiniteError, match="the model's logits are not finite"):
        engine.generate([Request((5, 9), 4, 0)], temperature=1.0, top_p=top_p)
    with pytest.raises(NonFiniteError):
        engine.next_token_logprobs([(5, 9)], [3])


def test_servers_log_probabilities_that_are_not_numbers_are_refused():
    part = ContinuationRequest((5,), 2, 1.0)
    with pytest.raises(NonFiniteError):
        check_continuation(part, Continuation((1, 2), (-0.5, float("nan")), stopped=False))


def test_a_token_without_an_embedding_is_one_line(random_model):
    size = random_model.config.vocab_size
    engine = NativeEngine(random_model, (294,))
    with pytest.raises(UserError, match=f"a prompt has the token {size}, and the model has {size} embeddings"):
        engine.generate([Request((5, size), 4, 0)], temperature=1.0)
