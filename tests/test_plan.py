"""Estimates before a run: arithmetic by hand, and against what the paper and this project's benchmarks measured."""

import json
import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adaptthink.cli.plan import MEANS, find_lengths, plan_job
from adaptthink.config.resolve import RECIPES, resolve
from adaptthink.config.schema import EngineName, VerlConfig
from adaptthink.errors import UserError
from adaptthink.integrations.verl.settings import check_config, make_verl_settings
from adaptthink.planning.architecture import PUBLISHED, Architecture, read_architecture
from adaptthink.planning.estimate import (
    CPU_EFFICIENCY,
    Efficiency,
    Lengths,
    Platform,
    choose_element_bytes,
    choose_micro_batch,
    choose_tensor_parallel,
    clip_lengths,
    compute_cache_tokens,
    count_forward_flops,
    count_passes,
    estimate_memory,
    estimate_step,
    find_remedies,
    fits,
    list_larger_platforms,
    make_cluster_platform,
    make_plan,
    make_quantiles,
    make_step_rows,
    shorten_thinking,
    simulate_generation,
    spread_gpus,
)
from adaptthink.planning.hardware import GPUS, read_cluster
from adaptthink.planning.roofline import Machine, compute_generation_bound, compute_update_bound, read_shape

SMALL = Architecture(layers=2, hidden=8, intermediate=12, heads=4, kv_heads=2, head_dim=2, vocabulary=50, tied=True)
IDEAL = Efficiency(update=1, decode=1, layer_seconds=0, element_seconds=0, switch_seconds=0, source="a test")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"


def on(gpus):
    return make_cluster_platform(read_cluster(gpus))


def paper(recipe):
    config = resolve("verl", VerlConfig, recipes=[recipe])
    return read_architecture(config.model), config, find_lengths(config, None, None, 200, None)


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7.62),
        ("Qwen/Qwen3-1.7B", 1.72),
        ("Qwen/Qwen3-4B", 4.02),
        ("Qwen/Qwen3-8B", 8.19),
    ],
)
def test_published_shapes_have_the_published_number_of_weights(model, billions):
    assert PUBLISHED[model].weights / 1e9 == pytest.approx(billions, abs=0.006)


def test_a_shape_is_read_as_the_loaded_model_has_it(random_model, tmp_path):
    random_model.config.save_pretrained(tmp_path)
    found = read_architecture(str(tmp_path))
    assert found.shape(4) == read_shape(random_model, torch.float32)


def test_a_model_whose_shape_is_not_known(tmp_path, monkeypatch):
    def offline(name, **options):
        raise OSError(f"no connection for {name}\nmuch advice")

    with monkeypatch.context() as patch:
        patch.setattr("adaptthink.planning.architecture.AutoConfig.from_pretrained", offline)
        with pytest.raises(
            UserError, match=r"the shape of 'some/where' is unknown: .*loaded \(no connection for some/where\); give"
        ):
            read_architecture("some/where")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral", "num_local_experts": 8}))
    with pytest.raises(UserError, match="experts = 8: only dense models"):
        read_architecture(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [("8xH100", 8, "H100"), ("H100", 1, "H100"), ("2 x a100-80gb", 2, "A100"), ("1x4090", 1, "RTX4090"),
     ("4xRTX 4090", 4, "RTX4090"), ("16xNVIDIA H200", 16, "H200"), ("a100-40", 1, "A100-40")],
)  # fmt: skip
def test_gpus_as_people_write_them(text, count, name):
    cluster = read_cluster(text)
    assert (cluster.count, cluster.gpu.name) == (count, name)


@pytest.mark.parametrize("text", ["", "8x", "0xH100", "8", "-1xH100", "8xH100,4xA100"])
def test_gpus_that_cannot_be_read(text):
    with pytest.raises(UserError, match="is not a number and a GPU; give it like 8xH100"):
        read_cluster(text)


def test_an_unknown_gpu_names_the_nearest():
    with pytest.raises(UserError, match=r"no data sheet for a GPU 'H10'; nearest: H100.*; known: H100, H800, H200"):
        read_cluster("8xH10")


def test_data_sheets_agree_where_they_must():
    by_name = {gpu.name: gpu for gpu in GPUS}
    assert replace(by_name["H800"], name="H100", source="", link_gb=450) == replace(by_name["H100"], source="")
    assert read_cluster("8xH100").joined_gb == 450
    assert read_cluster("16xH100").joined_gb == 50
    assert read_cluster("16xL40S").joined_gb == 32


@pytest.mark.parametrize(("mean", "limit"), [(8480, 16384), (1424, 4096), (64, 128), (127, 128), (2, 16384)])
def test_assumed_lengths_have_their_mean_and_their_limit(mean, limit):
    lengths = make_quantiles(mean, limit)
    assert np.mean(lengths) == pytest.approx(mean, rel=1e-3)
    assert list(lengths) == sorted(lengths)
    assert lengths[0] >= 1
    assert lengths[-1] <= limit


@pytest.mark.parametrize("mean", [0.5, 128, 500])
def test_a_mean_that_the_limit_forbids(mean):
    with pytest.raises(UserError, match="is impossible with max_tokens 128"):
        make_quantiles(mean, 128)


def test_what_is_cut_stays_cut_when_thoughts_shorten():
    assert shorten_thinking(Lengths(1, (10, 50, 100), (20,), ""), 100) == Lengths(1, (9, 45, 100), (20,), "")


def test_a_step_has_the_shares_of_both_modes():
    config = VerlConfig(problems_per_step=2, samples_per_problem=4, no_think_share=0.25)
    assert make_step_rows(Lengths(1, (100.0, 100.0), (7.0, 7.0), ""), config).tolist() == [100.0] * 6 + [7.0] * 2


def test_generation_is_the_rooflines_where_nothing_is_in_the_way():
    """Another implementation, step by step over token ids; blocks of time are the only difference."""
    shape = SMALL.shape(4)
    lengths = [100, 60, 60, 31, 8]
    for machine in (Machine(1e6, 1e30), Machine(1e30, 1e6), Machine(3e6, 2e6)):
        platform = Platform("cpu", 1, 1e9, machine, math.inf, IDEAL)
        found = simulate_generation(
            SMALL, shape, replace(platform, efficiency=IDEAL), np.array(lengths, float), 20, 99, 1e9
        )
        prompts = [[row] * 20 for row in range(len(lengths))]
        gpu_peak = Machine(machine.flops_per_second / 2, machine.bytes_per_second)  # four bytes: TF32
        expected = compute_generation_bound(shape, gpu_peak, prompts, [[0] * length for length in lengths])
        assert found.seconds == pytest.approx(expected, rel=0.06)
        assert (found.rows, found.longest_tokens) == (5, 100)


def test_rows_wait_for_room():
    """Two of 10 + 90 tokens in a cache of 100: one after the other, twice the time of one; at once else."""
    platform = Platform("x", 1, 1e9, Machine(1e30, 1e6), math.inf, IDEAL)
    rows, shape = np.array([90.0, 90.0]), SMALL.shape(2)
    one = simulate_generation(SMALL, shape, platform, rows[:1], 10, 8, 100)
    alone = simulate_generation(SMALL, shape, platform, rows, 10, 8, 100)
    assert (alone.rows, simulate_generation(SMALL, shape, platform, rows, 10, 8, 200).rows) == (1, 2)
    assert simulate_generation(SMALL, shape, platform, rows, 10, 1, 1e9).rows == 1
    assert alone.seconds == pytest.approx(2 * one.seconds)
    with pytest.raises(UserError, match="less than one response"):
        simulate_generation(SMALL, shape, platform, rows, 11, 8, 100)


def test_update_is_the_rooflines():
    rows, shape = np.array([30.0, 5.0]), SMALL.shape(2)
    expected = compute_update_bound(shape, Machine(1.0, 1.0), [[0] * 7] * 2, [[0] * 30, [0] * 5])
    assert 3 * count_forward_flops(shape, rows, 7).sum() == expected
    assert count_passes(VerlConfig()) == 3
    assert count_passes(VerlConfig(gradient_checkpointing=True)) == 4


def test_memory_by_hand():
    """16 GPUs: 16 bytes of each weight are shared out; two layers and both embeddings are gathered in bfloat16."""
    a = replace(SMALL, tied=False)
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12
    assert a.weights == 2 * layer + 2 * 400
    config = VerlConfig(
        dtype="bfloat16", micro_batch_tokens=100, gradient_checkpointing=True, engine_memory=0.5,
        max_prompt_tokens=5, max_think_tokens=20, max_no_think_tokens=4,
    )  # fmt: skip
    lengths = Lengths(5, (10.0, 20.0), (3.0, 4.0), "")
    memory = estimate_memory(a, config, on("16xH100"), lengths)
    assert memory.weights == 4 * a.weights / 16 + 2 * (2 * layer + 2 * 400)
    assert (memory.optimizer, memory.gradients) == (8 * a.weights / 16, 4 * a.weights / 16)
    of_layer = 2 * (4 * 8 + 2 * 8 + 2 * 4 + 4 * 12) + 8 * 8
    assert memory.activations == 100 * (of_layer + 2 * 2 * 8)
    assert memory.logits == 100 * 50 * 4 * 6 + 2 * 8 * 50
    assert (memory.engine, memory.engine_idle) == (40e9, 0)
    kept = estimate_memory(a, config.model_copy(update={"gradient_checkpointing": False}), on("16xH100"), lengths)
    assert kept.activations == 100 * 2 * of_layer
    assert compute_cache_tokens(a, config, on("16xH100"), 1) == (40e9 - 2e9 - 2 * a.weights) / (2 * 2 * 2 * 4)


def test_memory_under_an_adapter_by_hand():
    """Base, merged copy and the native engine's own lay-out: 6 bytes a weight; for vLLM the merged copy alone."""
    lengths, weights = Lengths(5, (10.0, 20.0), (3.0, 4.0), ""), SMALL.weights
    config = VerlConfig(dtype="bfloat16", lora_rank=2, problems_per_step=1, samples_per_problem=2, engine_memory=0.5)
    cache = 2 * (2 * 2 * 2 * 2) * (10 + 5 + 3 + 5 + (20 - 10) / 2 + (4 - 3) / 2)  # one response of each mode: medians
    native = estimate_memory(SMALL, config, on("H100"), lengths)
    assert native.weights == 2 * weights + 4 * SMALL.adapter(2)
    assert (native.engine, native.engine_idle) == (4 * weights + cache, 2 * weights)
    assert native.update == pytest.approx(
        native.weights + 12 * SMALL.adapter(2) + native.activations + native.logits + 2 * weights
    )
    vllm = estimate_memory(SMALL, config.model_copy(update={"engine": EngineName.VLLM}), on("H100"), lengths)
    assert (vllm.engine, vllm.engine_idle) == (40e9 + 2 * weights, 40e9)
    far = estimate_memory(SMALL, config.model_copy(update={"engine": EngineName.OPENAI}), on("H100"), lengths)
    assert (far.engine, far.engine_idle) == (2 * weights, 0)
    trained = estimate_memory(SMALL, config.model_copy(update={"lora_rank": 0}), on("H100"), lengths)
    assert (trained.weights, trained.engine, trained.engine_idle) == (6 * weights, cache, 0)
    wide = estimate_memory(SMALL, config.model_copy(update={"lora_rank": 0, "dtype": "float32"}), on("H100"), lengths)
    assert (wide.weights, wide.engine, wide.engine_idle) == (4 * weights, 4 * weights + 2 * cache, 0)


def test_an_adapter_on_7b_does_not_fit_into_40_gb():
    """7.62e9 weights, three times in bfloat16: 45.7 GB before anything is computed."""
    architecture, config, lengths = paper("r1_distill_7b")
    tried = config.model_copy(update={"lora_rank": 32, "engine": EngineName.NATIVE, "max_concurrent_sequences": 1})
    memory = estimate_memory(architecture, tried, on("A100-40"), lengths)
    assert memory.rollout > 6 * 7.6e9
    assert not fits(architecture, tried, on("A100-40"), lengths)


def test_the_page_on_training_has_these_sizes():
    """18 and 6 bytes a weight, as the page's columns add up to, of the models that it names."""
    small, large = (paper(recipe)[0].weights for recipe in ("r1_distill_1.5b", "r1_distill_7b"))
    page = (HOW_TO / "training.md").read_text()
    for row, size in (("| 4 | 4 | 8 | 2 |", 18), ("| 2 | – | – | 2 + 2 |", 6)):
        assert f"{row} {size * small / 1e9:.0f} GB | {size * large / 1e9:.0f} GB |" in page


def test_activations_are_what_autograd_keeps():
    """Count what a layer's backward holds on to, in float32, against the estimate of it."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=32, max_position_embeddings=256, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=torch.zeros(1, 200, dtype=torch.long), use_cache=False)
    found = sum(size for size, _ in kept.values())
    a = Architecture(4, 64, 160, 4, 2, 16, 32, tied=False)
    settings = VerlConfig(dtype="float32", micro_batch_tokens=200)
    platform = Platform("cpu", 1, 1e9, Machine(1.0, 1.0), math.inf, CPU_EFFICIENCY)
    estimated = estimate_memory(a, settings, platform, Lengths(1, (9.0,), (9.0,), "")).activations
    assert found / 1.35 < estimated < found * 1.35


@pytest.mark.parametrize(
    ("recipe", "gpus", "hours", "row"),
    [("r1_distill_1.5b", "8xH800", 32, "1.5B on 8 H800"), ("r1_distill_7b", "32xH800", 28, "7B on 32 H800")],
)
def test_the_papers_hours_within_a_factor_of_one_and_a_half(recipe, gpus, hours, row):
    """One set of efficiencies for both; the official code also recomputes log-probabilities and validates."""
    architecture, config, lengths = paper(recipe)
    plan = make_plan(architecture, config, on(gpus), lengths)
    assert plan.fits
    assert hours / 1.5 < plan.hours < hours * 1.5
    page = (HOW_TO / "scaling.md").read_text(encoding="utf-8")
    assert f"| {row} | {hours} h | {plan.hours:.1f} h | {hours / plan.hours:.2f} |" in page


@pytest.mark.parametrize(
    ("recipe", "gpu", "column"), [("r1_distill_1.5b_one_gpu", "1xH100", 1), ("r1_distill_1.5b_24gb", "1xRTX4090", 2)]
)
def test_the_recipes_for_one_gpu_fit_and_end_within_a_day(recipe, gpu, column):
    config = resolve("verl", VerlConfig, recipes=[recipe])
    lengths = find_lengths(config, None, None, 200, None)
    plan = make_plan(read_architecture(config.model), config, on(gpu), lengths, config.steps * config.problems_per_step)
    assert plan.fits
    assert plan.hours + plan.reference_hours < 24
    page = (HOW_TO / "one_gpu.md").read_text(encoding="utf-8")
    cells = {row[0].strip(): row[column].strip() for row in re.findall(r"\| (.+?) \| (.+?) \| (.+?) \|", page)}
    assert cells["training"] == f"{plan.hours:.1f} h"
    assert cells["reference"].endswith(f" each, {plan.reference_hours:.1f} h")


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_the_measured_generation_and_update_within_a_factor_of_one_and_a_half(model):
    """`benchmarks/roofline.py`: K = 16, half in each mode, every response as long as its limit."""
    found = json.loads((RESULTS / f"roofline-{model}-float32-2026-11-22.json").read_text())
    smollm2 = Architecture(30, 576, 1536, 9, 3, 64, 49154, tied=True)
    architecture = read_architecture("tiny") if model == "tiny" else smollm2
    assert {key: getattr(architecture.shape(4), key) for key in found["shape"]} == found["shape"]
    machine = Machine(found["gflops_per_second"]["median"] * 1e9, found["gbytes_per_second"]["median"] * 1e9)
    platform = Platform("cpu", 1, 25e9, machine, math.inf, CPU_EFFICIENCY)
    think, no_think = found["max_tokens"]
    config = VerlConfig(
        problems_per_step=found["responses"] // 16, max_think_tokens=think, max_no_think_tokens=no_think
    )
    lengths = Lengths(16, (float(think),) * 2, (float(no_think),) * 2, "")
    step = estimate_step(architecture, config, platform, lengths, 1, math.inf)
    for estimate, measured in ((step.rollout_seconds, "generate_seconds"), (step.update_seconds, "update_seconds")):
        assert found[measured]["median"] / 1.5 < estimate < found[measured]["median"] * 1.5


def test_what_does_not_fit_is_said_and_what_helps_does():
    architecture, config, lengths = paper("r1_distill_7b")
    platform = on("RTX4090")
    assert not fits(architecture, config, platform, lengths)
    found = find_remedies(architecture, config, platform, lengths, list_larger_platforms(platform))
    assert found
    assert all(remedy.memory.peak <= 24e9 for remedy in found)
    small = config.model_copy(update={"gradient_checkpointing": False})
    helps = [remedy.settings for remedy in find_remedies(architecture, small, on("32xH100"), lengths)]
    assert "gradient_checkpointing = true" in helps
    switched = small.model_copy(update={"gradient_checkpointing": True})
    assert fits(architecture, switched, on("32xH100"), clip_lengths(lengths, switched))


def test_replicas_spread_over_gpus_where_one_is_too_small():
    architecture, config, lengths = paper("r1_distill_7b")
    assert make_plan(architecture, config, on("8xH100"), lengths).tensor_parallel == 1
    less = config.model_copy(update={"engine_memory": 0.6})  # 14.4 of 24 GB, and 15.2 of weights
    assert make_plan(architecture, less, on("8xRTX4090"), lengths).tensor_parallel == 2


def test_replicas_take_what_is_configured_and_what_divides():
    architecture, config, lengths = paper("r1_distill_7b")
    four = config.model_copy(update={"tensor_parallel": 4})
    assert make_plan(architecture, four, on("8xH100"), lengths).tensor_parallel == 4
    assert make_plan(architecture, four, on("H100"), lengths).tensor_parallel == 1  # the native trainer
    less = config.model_copy(update={"engine_memory": 0.1})  # 2.4 of 24 GB, less workspace: nothing is enough
    assert choose_tensor_parallel(architecture, less, on("8xRTX4090"), lengths) == 1
    odd = replace(architecture, heads=27)  # cannot be shared by two
    small = config.model_copy(update={"engine_memory": 0.6})
    assert choose_tensor_parallel(architecture, small, on("8xRTX4090"), lengths) == 2
    assert choose_tensor_parallel(odd, small, on("8xRTX4090"), lengths) == 1


def test_verl_reserves_memory_for_the_longest_sequence():
    """As `ppo_max_token_len_per_gpu`, `max_model_len`: the limits and the longest prompt; one GPU: actual lengths."""
    config = VerlConfig(micro_batch_tokens=100, max_prompt_tokens=50, max_think_tokens=70, max_no_think_tokens=90)
    lengths = Lengths(5, (10.0, 60.0), (3.0, 4.0), "")
    found = make_verl_settings(config, "tiny", Path("run"))["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"]
    assert choose_micro_batch(config, on("8xH100"), lengths) == found == 140
    assert choose_micro_batch(config, on("H100"), lengths) == 100
    assert choose_micro_batch(config.model_copy(update={"micro_batch_tokens": 9}), on("H100"), lengths) == 65
    architecture, paper_config, paper_lengths = paper("qwen3_8b")
    helps = find_remedies(architecture, paper_config, on("64xRTX4090"), paper_lengths)
    assert any("micro_batch_tokens = 18432" in remedy.settings for remedy in helps)


@pytest.mark.parametrize(
    ("given", "devices", "placed"),
    [((1, 8), 32, (4, 8)), ((1, 8), 4, (1, 4)), ((4, 4), 16, (4, 4)), ((1, 8), 12, (3, 4)), ((2, 8), 1, (2, 8))],
)
def test_gpus_are_placed_in_nodes(given, devices, placed):
    config = VerlConfig(nodes=given[0], gpus_per_node=given[1])
    found = spread_gpus(config, devices)
    assert (found.nodes, found.gpus_per_node) == placed
    assert found.ray_address == ("auto" if devices > 1 and placed[0] > 1 else None)


def test_settings_that_train_would_need_are_said(capsys):
    config = resolve("verl", VerlConfig, recipes=["r1_distill_7b"], flags={"engine_memory": 0.6, "gpus_per_node": 4})
    result = plan_job(config, "8xRTX4090")
    out = capsys.readouterr().out
    assert result["settings"] == ["nodes = 1", "gpus_per_node = 8", "tensor_parallel = 2"]
    assert "train --backend verl needs: nodes = 1, gpus_per_node = 8, tensor_parallel = 2" in out
    assert "GPUs by --gpus, not nodes = 4, gpus_per_node = 4" in out
    given = config.model_copy(update={"nodes": 1, "gpus_per_node": 8, "tensor_parallel": 2})
    assert plan_job(given, "8xRTX4090")["settings"] == []
    assert "by --gpus" not in capsys.readouterr().out


def test_what_is_said_to_be_needed_is_enough(capsys):
    config = resolve("verl", VerlConfig, recipes=["qwen3_4b"])
    needs = plan_job(config, "16xA100")["settings"]
    assert needs == ["nodes = 2", 'ray_address = "auto"']
    check_config(config.model_copy(update=tomllib.loads("\n".join(needs))))
    assert plan_job(config.model_copy(update={"nodes": 2}), "16xA100")["settings"] == needs[1:]


def test_what_verl_refuses_is_neither_planned_nor_recommended(capsys):
    config = resolve("verl", VerlConfig, recipes=["r1_distill_7b"], flags={"lora_rank": 16})
    with pytest.raises(UserError, match="lora_rank = 16 is not for --backend verl"):
        plan_job(config, "8xH100")
    with pytest.raises(UserError, match="cannot be shared out evenly among 7 GPUs"):
        plan_job(config.model_copy(update={"lora_rank": 0}), "7xH100")
    alone = plan_job(config, "RTX4090")
    assert not alone["plan"]["fits"]
    assert not any("--gpus" in remedy for remedy in alone["remedies"])
    capsys.readouterr()
    whole = plan_job(config.model_copy(update={"lora_rank": 0}), "RTX4090")
    assert whole["remedies"]
    assert not any("--gpus" in remedy and "lora_rank" in remedy for remedy in whole["remedies"])


def test_a_remedy_says_all_that_it_changes():
    architecture, config, lengths = paper("r1_distill_7b")
    for gpus in ("H100", "8xA100-40", "2xH200"):
        platform = on(gpus)
        for remedy in find_remedies(architecture, config, platform, lengths):
            values = tomllib.loads(remedy.settings.replace(", ", "\n"))
            changed = config.model_copy(update=values)
            assert fits(architecture, changed, platform, clip_lengths(lengths, changed))
            assert estimate_memory(architecture, changed, platform, clip_lengths(lengths, changed)) == remedy.memory


def test_float32_on_a_gpu_is_not_planned_at_the_peak_of_bfloat16():
    architecture, config, lengths = paper("r1_distill_1.5b")
    wide = config.model_copy(update={"dtype": "float32"})
    assert (choose_element_bytes(config, on("H100")), choose_element_bytes(wide, on("H100"))) == (2, 4)
    one, other = (make_plan(architecture, each, on("8xH100"), lengths).first for each in (config, wide))
    assert other.update_seconds == pytest.approx(2 * one.update_seconds)


@pytest.mark.parametrize("name", ["r1_distill_1.5b", "r1_distill_7b", "qwen3_1.7b", "qwen3_4b", "qwen3_8b"])
def test_recipes_hold_the_papers_settings(name):
    config = resolve("verl", VerlConfig, recipes=[name])
    assert (config.max_think_tokens, config.max_no_think_tokens) == (16384, 4096)
    assert (config.samples_per_problem, config.no_think_share, config.problems_per_step) == (16, 0.5, 128)
    assert (config.learning_rate, config.schedule, config.warmup_steps) == (2e-6, "constant", 0)
    assert (config.temperature, config.delta, config.clip, config.steps) == (0.6, 0.05, 0.2, 314)
    assert (config.reference_samples, config.reference_temperature, config.reference_top_p) == (16, 0.6, 0.95)
    assert (config.method, config.problems, config.force_think) == ("adaptthink", "deepscaler", "start")
    assert config.model in PUBLISHED
    think_start = "Alright" if name.startswith("r1") else "Okay"
    assert config.think_start == think_start
    assert f"--gpus {'8' if '1.' in name else ''}" in (RECIPES / f"{name}.toml").read_text()


def test_lengths_as_told_as_measured_and_as_assumed(tmp_path):
    config = resolve("verl", VerlConfig, recipes=["r1_distill_1.5b"])
    assumed = find_lengths(config, None, None, 200, None)
    assert np.mean(assumed.think) == pytest.approx(MEANS[config.model][0], rel=1e-3)
    assert assumed.source == "mean of the paper's MATH500 and AIME24"
    lower = find_lengths(config.model_copy(update={"max_think_tokens": 8192}), None, None, 200, None)
    assert lower.think == tuple(min(length, 8192) for length in assumed.think)  # what would be longer is cut
    given_lengths = find_lengths(config, 3000, None, 200, None)
    assert np.mean(given_lengths.think) == pytest.approx(3000, rel=1e-3)
    store = tmp_path / "reference.jsonl"
    row = '{"id": "00000000000000a1", "verdicts": ["correct", "wrong"], "tokens": [100, 300]}\n'
    store.write_text('{"settings": {}}\n' + row + row[:20])  # the last is still being written
    measured = find_lengths(config, None, 50, 200, store)
    assert (measured.think[0], measured.think[-1]) == (pytest.approx(100, abs=1), pytest.approx(300, abs=1))
    with pytest.raises(UserError, match="use one of them"):
        find_lengths(config, 3000, None, 200, store)
    with pytest.raises(UserError, match=r"more than max_think_tokens = 128"):
        find_lengths(config.model_copy(update={"max_think_tokens": 128}), None, 50, 200, store)
    store.write_text('{"settings": {}}\nnothing\n')
    with pytest.raises(UserError, match="line 2: damaged"):
        find_lengths(config, None, None, 200, store)
    with pytest.raises(UserError, match="make one with: adaptthink presample"):
        find_lengths(config, None, None, 200, tmp_path / "none.jsonl")


def test_the_job_prints_on_eighty_columns_and_returns_json(capsys, monkeypatch):
    monkeypatch.setattr("adaptthink.cli.plan.console.width", 80, raising=False)
    config = resolve("verl", VerlConfig, recipes=["r1_distill_1.5b"])
    result = json.loads(json.dumps(plan_job(config, "8xH100", price=2.0), allow_nan=False))
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert result["cost"] == pytest.approx(16 * result["plan"]["hours"])
    assert f"cost {result['cost']:,.0f}" in out
    kept = config.keep_checkpoints + 1
    assert result["disk_bytes"] == kept * result["plan"]["checkpoint_bytes"] + 2 * result["model"]["weights"]
    assert result["plan"]["fits"] is True
    assert result["remedies"] == []
    assert len(result["assumptions"]) > 6


def test_this_machine_is_measured(capsys):
    config = resolve("verl", VerlConfig, recipes=["toy_cpu"])
    result = plan_job(config, "cpu")
    assert result["platform"]["machine"]["flops_per_second"] > 1e8
    assert result["plan"]["trainer"] == "native"
    json.dumps(result, allow_nan=False)
    assert "fits: " in capsys.readouterr().out
