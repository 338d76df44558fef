"""LoRA: only the adapter is trained, kept and resumed; what generates and what is saved has it merged in."""

import math
import sys

import pytest
import torch
from peft import PeftModel
from rollouts import correct
from transformers import AutoModelForCausalLM

from adaptthink.cli import jobs
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.engines.base import Request
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.weights import write_weights_folder
from adaptthink.errors import UserError
from adaptthink.models.loading import TINY, load_policy, load_trainee
from adaptthink.models.scoring import checkpoint_gradients, compute_response_logprobs
from adaptthink.modes import Mode
from adaptthink.planning.roofline import read_shape
from adaptthink.problems import make_problem
from adaptthink.sampling.engine import make_engine
from adaptthink.storage.runs import read_metrics
from adaptthink.training.checkpoint import MODEL, find_checkpoint, load_checkpoint
from adaptthink.training.credit import Credit
from adaptthink.training.update import compute_micro_batch_loss

PROMPTS = [(5, 9, 17), (33, 4, 60, 61, 62, 7, 8), (100,)]


def config(**values):
    small = {
        "lora_rank": 4, "learning_rate": 1e-2, "steps": 4, "problems_per_step": 4, "samples_per_problem": 4,
        "max_think_tokens": 48, "max_no_think_tokens": 12, "temperature": 1.0, "checkpoint_every": 2, "probe_every": 2,
        "problems_per_level": 2, "reference_samples": 2, "probe_problems_per_level": 1,
    }  # fmt: skip
    return check(TrainConfig, small | values)


def filled(**values):
    """A policy whose adapter is not the zero that it begins as."""
    policy = load_trainee(config(**values))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return policy


def run(tmp_path, *, resume=False, **values):
    jobs.train_job(config(**values), tmp_path, reference_store=None, resume=resume, clean=False)


def logits(model):
    with torch.no_grad():
        return torch.cat([model(torch.tensor([prompt])).logits[0].log_softmax(-1) for prompt in PROMPTS])


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained():
    policy, base = load_trainee(config()), load_policy("tiny")
    assert torch.equal(logits(policy.model), logits(base.model))
    assert policy.fingerprint == base.fingerprint
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 7 * base.model.config.num_hidden_layers  # A and B of each linear layer but the output


def test_chosen_layers_alone_get_an_adapter():
    policy = load_trainee(config(lora_targets="q_proj, v_proj"))
    trained = {name.split(".")[-4] for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trained == {"q_proj", "v_proj"}


@pytest.mark.parametrize("targets", ["lm_head", "embed_tokens", "q_proj,lm_head"])
def test_layers_that_share_a_weight_are_refused(tmp_path, targets, recwarn):
    """Merged, the adapter of one would change both, and the rollouts come from the merged model."""
    name = targets.rpartition(",")[2]
    with pytest.raises(UserError, match=f"lora_targets puts an adapter on {name}, whose weight is shared"):
        load_trainee(config(lora_targets=targets))
    assert not [one for one in recwarn if "tie_word" in str(one.message)]
    policy = load_policy("tiny")
    policy.model.config.tie_word_embeddings = False
    policy.model.lm_head.weight = torch.nn.Parameter(policy.model.lm_head.weight.detach().clone())
    policy.save(tmp_path / "untied")
    load_trainee(config(model=str(tmp_path / "untied"), lora_targets=targets))


def test_layers_that_are_not_there_are_said():
    with pytest.raises(UserError, match=r"lora_targets = 'q_poj' does not fit this model: .*; give names of its"):
        load_trainee(config(lora_targets="q_poj"))


def test_the_adapter_follows_from_the_seed_and_disturbs_no_other_chance():
    def first(seed):
        policy = load_trainee(config(seed=seed))
        return next(parameter for name, parameter in policy.model.named_parameters() if "lora_A" in name)

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(torch.rand(1), expected)


def test_the_merged_model_is_the_trained_one_and_shares_nothing_with_it():
    policy = filled()
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    merged = policy.plain()
    assert not torch.allclose(logits(merged), logits(load_policy("tiny").model), atol=0.1)
    torch.testing.assert_close(logits(merged), logits(policy.model), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())


def test_what_the_engine_draws_has_the_log_probability_that_the_update_sees():
    policy = filled()
    engine = make_engine(policy, config())
    assert isinstance(engine, NativeEngine)
    requests = [Request(prompt, 9, stream) for stream, prompt in enumerate(PROMPTS)]
    done = engine.generate(requests, temperature=0.7, seed=1)
    with torch.no_grad():
        seen = compute_response_logprobs(policy.model, PROMPTS, [one.token_ids for one in done], 0.7)
    for row, one in zip(seen, done, strict=True):
        assert row[: len(one.token_ids)].tolist() == pytest.approx(one.logprobs, abs=1e-4)


def test_weights_for_other_engines_are_merged():
    policy = filled()
    with write_weights_folder(policy.plain()) as folder:
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(loaded), logits(policy.model), atol=1e-4, rtol=1e-4)


def test_the_gradient_reaches_the_adapter_with_activations_made_again():
    response = (60, 61, 62)
    one = correct(make_problem("1+1=?", "2"), Mode.THINK, PROMPTS[0], response, (-4.0,) * 3)

    def gradient(*, again):
        policy = filled()
        policy.model.train()
        if again:
            checkpoint_gradients(policy.model)
        compute_micro_batch_loss(policy.model, [one], [Credit(1.0, 1.0)], config()).loss.loss_B.sum().backward()
        return [p.grad for p in policy.model.parameters() if p.requires_grad]

    for kept, made_again in zip(gradient(again=False), gradient(again=True), strict=True):
        assert kept.abs().max() > 0
        torch.testing.assert_close(kept, made_again)


def test_the_bound_counts_the_adapter_apart():
    base, policy = load_policy("tiny").model, load_trainee(config()).model
    plain, shape = read_shape(base, torch.float32), read_shape(policy, torch.float32)
    assert (shape.body, shape.head, plain.adapter) == (plain.body, plain.head, 0)
    assert shape.adapter == sum(p.numel() for p in policy.parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with an adapter, from start to end."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    run(folder)
    return folder


def test_training_moves_the_adapter_and_leaves_the_weights(trained):
    base = load_policy("tiny").model
    policy = load_trainee(config())
    optimizer = torch.optim.AdamW([p for p in policy.model.parameters() if p.requires_grad])
    assert find_checkpoint(trained / "checkpoints", warn=pytest.fail) == 4
    load_checkpoint(trained / "checkpoints", 4, policy.model, optimizer)
    moved = [p.abs().max() > 0 for name, p in policy.model.named_parameters() if "lora_B" in name]
    assert all(moved)
    frozen = {name: p for name, p in policy.model.named_parameters() if not p.requires_grad}
    for name, parameter in base.named_parameters():
        kept = frozen.get(name)
        kept = frozen[name.replace(".weight", ".base_layer.weight")] if kept is None and "bias" not in name else kept
        kept = frozen[name.replace(".bias", ".base_layer.bias")] if kept is None else kept
        assert torch.equal(parameter, kept), name
    rows = read_metrics(trained / "metrics.jsonl")
    assert any(row["loss"] != 0 for row in rows)
    assert all(math.isfinite(row["grad_norm"]) for row in rows)
    probes = [row["probe_no_think_logprob"] for row in rows if "probe_no_think_logprob" in row]
    assert abs(probes[-1] - probes[0]) > 1e-3


def test_the_adapter_reloaded_and_merged_is_the_model_that_was_saved(trained):
    saved = AutoModelForCausalLM.from_pretrained(trained / "model")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY), trained / "adapter")
    assert not torch.allclose(logits(saved), logits(load_policy("tiny").model), atol=1e-2)
    torch.testing.assert_close(logits(again), logits(saved), atol=1e-4, rtol=1e-4)
    merged = again.merge_and_unload().state_dict()
    for name, tensor in saved.state_dict().items():
        torch.testing.assert_close(merged[name], tensor)
    assert load_policy(str(trained / "model")).fingerprint != load_policy("tiny").fingerprint


def test_each_folder_has_its_card(trained):
    for folder, library in (("model", "transformers"), ("adapter", "peft")):
        content = (trained / folder / "README.md").read_text()
        assert f"library_name: {library}" in content
        assert "lora_rank = 4" in content


def test_checkpoints_hold_the_adapter_alone(trained):
    size = (trained / "checkpoints" / "step-000004" / MODEL).stat().st_size
    assert size < 0.2 * (trained / "model" / "model.safetensors").stat().st_size


def test_a_resumed_run_ends_as_an_uninterrupted_one_bit_for_bit(trained, tmp_path, monkeypatch):
    shown = []

    def stop(self, metrics):
        shown.append(metrics["step"])
        if shown == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs.Terminal, "on_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    run(tmp_path / "broken", resume=True)
    assert shown == [1, 2, 3, 3, 4]
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (trained / name).read_bytes()


def test_the_reference_of_the_plain_model_serves_a_run_with_an_adapter(trained, tmp_path):
    store = tmp_path / "reference.jsonl"
    jobs.presample_job(check(TrainConfig, config().model_dump() | {"lora_rank": 0}), store)
    content = store.read_bytes()
    jobs.train_job(config(steps=1), tmp_path / "run", reference_store=store, resume=False, clean=False)
    assert store.read_bytes() == content
    assert store.read_bytes() == (trained / "reference.jsonl").read_bytes()


def test_without_peft_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"lora_rank = 4 needs PEFT.*pip install '\.\[lora\]'.*--lora-rank 0"):
        load_trainee(config())
