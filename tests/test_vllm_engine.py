"""The vLLM engine's translations, with a fake of vLLM; `test_vllm_real.py` runs the real one."""

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from adaptthink.engines import weights
from adaptthink.engines.base import Completion, Finish, Request
from adaptthink.engines.vllm import VllmEngine, start_vllm
from adaptthink.errors import UserError

PROMPT, EOS = (5, 9, 17), 299


class FakeLLM:
    """Samples token 7 at log-probability −0.5 until max_tokens; scores any token at −id. The last one ends first."""

    model_config = SimpleNamespace(max_model_len=64)

    def __init__(self, *, resets=True):
        self.requested, self.files, self.calls, self.resets = [], {}, [], resets

    def enqueue(self, prompts, params, *, use_tqdm):
        assert use_tqdm is False
        self.requested.append(list(zip(prompts, params, strict=True)))
        names = [f"{100 * len(self.requested) + number}" for number in range(len(prompts))]
        self.running = list(zip(names, params, strict=True))
        return [f"{name}-8f3a" for name in names]  # as vLLM 0.32 does

    @property
    def llm_engine(self):
        return self

    def has_unfinished_requests(self):
        return bool(self.running)

    def step(self):
        name, params = self.running.pop()
        others = [SimpleNamespace(request_id=other, finished=False) for other, _ in self.running]
        return [*others, self.output(name, params)]

    def output(self, name, params):
        scored = {token: SimpleNamespace(logprob=-float(token)) for token in params.logprob_token_ids or ()}
        steps = [{7: SimpleNamespace(logprob=-0.5)} | scored for _ in range(params.max_tokens)]
        result = SimpleNamespace(token_ids=[7] * params.max_tokens, logprobs=steps, finish_reason="length")
        return SimpleNamespace(request_id=name, finished=True, outputs=[result])

    def collective_rpc(self, method, *, args):
        self.calls.append(method)
        self.files = {path.name: path.read_bytes() for path in Path(args[0]).iterdir()}
        self.folder = Path(args[0])

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return self.resets


@pytest.fixture(autouse=True)
def fake_vllm(monkeypatch):
    module = ModuleType("vllm")
    module.SamplingParams = SimpleNamespace
    module.TokensPrompt = dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_every_setting_of_a_draw_reaches_vllm():
    llm, finished = FakeLLM(), []
    requested = [Request(PROMPT, 4, 3, (41,), (8, 9)), Request(PROMPT, 6, 4)]
    done = VllmEngine(llm, [EOS, EOS]).generate(
        requested, temperature=0.6, top_p=0.9, seed=1, on_finish=lambda *ended: finished.append(ended)
    )
    assert done[0] == Completion((41, 7, 7, 7), (-41.0, -0.5, -0.5, -0.5), Finish.LENGTH)
    assert sorted(finished, key=lambda ended: ended[0]) == list(enumerate(done))
    [[_, score], [_, first]], [[long_prompt, long], [rest_prompt, rest]] = llm.requested
    assert (score.logprob_token_ids, score.logprobs, score.top_p, score.temperature) == ([41], None, 1.0, 0.6)
    assert (first.logit_bias, first.max_tokens, first.top_p) == ({8: -math.inf, 9: -math.inf}, 1, 0.9)
    assert (long.max_tokens, rest.max_tokens) == (6, 2)
    assert long_prompt == {"prompt_token_ids": [5, 9, 17]}
    assert rest_prompt == {"prompt_token_ids": [5, 9, 17, 41, 7]}
    assert rest.logit_bias is None
    assert (rest.logprobs, rest.stop_token_ids, rest.ignore_eos) == (0, [EOS], True)
    assert len({params.seed for params in (first, long, rest)}) == 3


def test_an_end_token_is_part_of_the_response(monkeypatch):
    llm = FakeLLM()

    def output(name, params):
        step = {EOS: SimpleNamespace(logprob=-0.25)}
        result = SimpleNamespace(token_ids=[EOS], logprobs=[step], finish_reason="stop")
        return SimpleNamespace(request_id=name, finished=True, outputs=[result])

    monkeypatch.setattr(llm, "output", output)
    assert VllmEngine(llm, [EOS]).generate([Request(PROMPT, 4, 3)], temperature=1.0) == [
        Completion((EOS,), (-0.25,), Finish.STOP)
    ]


def test_weights_travel_in_a_folder_that_is_gone_afterwards(random_model, tmp_path):
    llm = FakeLLM()
    VllmEngine(llm, [EOS]).load_weights(random_model)
    assert llm.calls == ["load_fresh_weights", "reset_prefix_cache"]
    assert not llm.folder.exists()
    (tmp_path / "model.safetensors").write_bytes(llm.files["model.safetensors"])
    sent = load_file(tmp_path / "model.safetensors")
    named = dict(random_model.named_parameters())  # tied weights once
    assert set(sent) == set(named)
    assert all(torch.equal(sent[name], parameter) for name, parameter in named.items())


def test_a_prefix_cache_that_stays_is_an_error(random_model):
    with pytest.raises(UserError, match="prefix cache of the old weights"):
        VllmEngine(FakeLLM(resets=False), [EOS]).load_weights(random_model)


def test_the_ram_disk_is_taken_only_if_the_weights_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "RAM_DISK", tmp_path)
    assert weights.find_ram_disk(1000) == tmp_path
    assert weights.find_ram_disk(2**60) is None
    monkeypatch.setattr(weights, "RAM_DISK", tmp_path / "none")
    assert weights.find_ram_disk(1000) is None


def start():
    return start_vllm("some/model", [EOS], dtype=torch.float32, max_concurrent_sequences=8, memory_share=0.5)


def test_vllm_that_is_not_installed_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install '\.\[vllm\]'"):
        start()


def test_vllm_is_started_so_that_logprobs_are_those_drawn_with(fake_vllm):
    fake_vllm.LLM = lambda path, **settings: SimpleNamespace(path=path, **settings)
    llm = start().llm
    assert (llm.path, llm.dtype, llm.logprobs_mode) == ("some/model", "float32", "processed_logprobs")
    assert (llm.enable_prefix_caching, llm.max_num_seqs, llm.gpu_memory_utilization) == (True, 8, 0.5)


def test_vllm_that_does_not_start_is_said_in_one_line(fake_vllm):
    def fail(path, **settings):
        raise RuntimeError("Engine core initialization failed.\nmuch more")

    fake_vllm.LLM = fail
    with pytest.raises(UserError, match=r"'some/model': Engine core initialization failed\.; set VLLM_LOGGING_LEVEL"):
        start()
