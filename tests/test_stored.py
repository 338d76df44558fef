"""Models that are read for generation alone, against transformers' own loading of the same files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_decoder import FAMILIES, PROMPTS, SHAPE, random_model
from transformers import GPT2Config, MistralConfig, Qwen2Config

from adaptthink.engines.base import Request
from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import load_generator, load_model, load_policy
from adaptthink.models.stored import StoredModel, make_transformers_model, read_stored

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}
STORED = FAMILIES | {
    "qwen2, tied, rotation of yarn": Qwen2Config(**SHAPE, tie_word_embeddings=True, rope_parameters=YARN),
    "mistral, linear rotation": MistralConfig(**SHAPE, sliding_window=None, rope_parameters=LINEAR),
}
BUFFERS = ("model.rotary_emb.inv_freq",)
LAYER = "model.layers.1.mlp.down_proj.weight"


def save(config, folder, dtype=torch.float32):
    random_model(config).to(dtype).save_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "auto"])
@pytest.mark.parametrize("family", STORED)
def test_weights_and_samples_are_those_of_the_model_that_transformers_loads(family, dtype, tmp_path):
    save(STORED[family], tmp_path, torch.bfloat16 if dtype == "auto" else torch.float32)
    ours, own = read_stored(tmp_path, dtype), load_model(str(tmp_path), dtype=dtype).eval()
    assert ours is not None
    assert (ours.dtype, ours.device) == (own.dtype, own.device)
    for left, right in (
        (ours.state_dict(), own.state_dict()),
        (dict(ours.named_parameters()), dict(own.named_parameters())),
        ({name: ours.get_buffer(name) for name in BUFFERS}, {name: own.get_buffer(name) for name in BUFFERS}),
    ):
        assert list(left) == list(right)
        for name, tensor in left.items():
            assert tensor.dtype == right[name].dtype
            assert torch.equal(tensor, right[name]), name
    assert ours.model.rotary_emb.attention_scaling == own.model.rotary_emb.attention_scaling
    assert ours.config.to_dict() == own.config.to_dict()
    assert ours.generation_config.to_dict() == own.generation_config.to_dict()
    requests = [Request(prompt, 12, stream) for stream, prompt in enumerate(PROMPTS)]
    left, right = (NativeEngine(model, [210]).generate(requests, temperature=0.8, seed=3) for model in (ours, own))
    assert left == right


@torch.inference_mode()
def test_logits_of_a_call_are_those_of_the_modules(tmp_path):
    save(FAMILIES["qwen3"], tmp_path)
    ids = torch.tensor([PROMPTS[2], PROMPTS[2][::-1]])
    ours, own = read_stored(tmp_path, torch.float32), load_model(str(tmp_path), dtype=torch.float32)
    torch.testing.assert_close(ours(input_ids=ids).logits, own(input_ids=ids).logits, atol=2e-5, rtol=1e-4)


def test_the_policy_of_a_stored_model_is_the_same():
    ours, own = (load_policy("tiny", generation_only=only) for only in (True, False))
    assert isinstance(ours.model, StoredModel)
    assert (ours.fingerprint, ours.eos_ids, ours.template) == (own.fingerprint, own.eos_ids, own.template)


def change(function, metadata=("format", "pt")):
    """Change the tensors of the file."""

    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        function(tensors)
        save_file(tensors, folder / "model.safetensors", metadata=dict([metadata]))

    return damage


def configure(**values):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return damage


LEFT_TO_TRANSFORMERS = {
    "no file": lambda folder: (folder / "model.safetensors").unlink(),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "shards": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
    "another layout": change(lambda tensors: None, ("format", "tf")),
    "a missing tensor": change(lambda tensors: tensors.pop(LAYER)),
    "a tensor too many": change(lambda tensors: tensors.update(more=torch.zeros(1))),
    "a tensor of another shape": change(lambda tensors: tensors.update({LAYER: torch.zeros(48, 81)})),
    "whole numbers": change(lambda tensors: tensors.update({LAYER: tensors[LAYER].to(torch.int8)})),
    "an output projection beside tied embeddings": configure(tie_word_embeddings=True),
    "a quantization": configure(quantization_config={"quant_method": "fp8"}),
    "weights elsewhere": configure(transformers_weights="other.safetensors"),
    "another activation": configure(hidden_act="gelu"),
    "a rotation that depends on the length": configure(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "padding beyond the vocabulary": configure(pad_token_id=211),
    "no config": lambda folder: (folder / "config.json").unlink(),
}


@pytest.mark.parametrize("difference", LEFT_TO_TRANSFORMERS)
def test_whatever_does_not_fit_is_left_to_transformers(difference, tmp_path):
    save(FAMILIES["llama"], tmp_path)
    assert read_stored(tmp_path, torch.float32) is not None
    LEFT_TO_TRANSFORMERS[difference](tmp_path)
    assert read_stored(tmp_path, torch.float32) is None


def test_other_families_are_left_to_transformers(tmp_path):
    save(GPT2Config(vocab_size=211, n_embd=48, n_layer=2, n_head=4), tmp_path)
    assert read_stored(tmp_path, torch.float32) is None
    model = load_generator(str(tmp_path), dtype=torch.float32)
    assert type(model).__name__ == "GPT2LMHeadModel"


def test_a_precision_that_the_config_does_not_name_is_left_to_transformers(tmp_path):
    save(FAMILIES["llama"], tmp_path)
    configure(dtype=None)(tmp_path)
    assert read_stored(tmp_path, "auto") is None
    assert read_stored(tmp_path, torch.float32) is not None


@pytest.mark.parametrize("family", STORED)
def test_the_model_for_training_is_the_one_that_transformers_loads(family, tmp_path):
    save(STORED[family], tmp_path / "saved")
    stored, own = read_stored(tmp_path / "saved", torch.float32), load_model(str(tmp_path / "saved"), dtype="float32")
    ours = make_transformers_model(stored)
    ids = torch.tensor([PROMPTS[2], PROMPTS[2][::-1]])
    for model, name in ((ours, "ours"), (own.eval(), "own")):
        model(input_ids=ids, labels=ids).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.save_pretrained(tmp_path / name)
    assert (type(ours), ours.training, ours.dtype) == (type(own), own.training, own.dtype)
    assert {name: one.grad.sum() for name, one in ours.named_parameters()} == {
        name: one.grad.sum() for name, one in own.named_parameters()
    }
    for saved in (tmp_path / "own").iterdir():
        assert (tmp_path / "ours" / saved.name).read_bytes() == saved.read_bytes(), saved.name
    weights = own.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in stored.state_dict().items())  # trained with it
