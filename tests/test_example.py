"""The one-file example: it is checked against the library, which it must not import."""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from adaptthink import objective
from adaptthink.modes import encode_prompt
from adaptthink.problems import arithmetic

PATH = Path(__file__).resolve().parents[1] / "examples" / "adaptthink_in_one_file.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("adaptthink_in_one_file", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def left_tokenizer(random_policy, tmp_path):
    """The tokenizer as `main` loads it."""
    from transformers import AutoTokenizer

    random_policy.save(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path, padding_side="left")


def test_file_is_short_and_stands_alone():
    source = PATH.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            imported.add(node.module.partition(".")[0])
    assert {"torch", "transformers"} <= imported
    assert imported - {"torch", "transformers"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("log_ratios", "adv", "expected"),
    [
        ([math.log(1.1), math.log(1.1)], 1.0, -1.1),  # inside the clipping interval
        ([math.log(4.0), 0.0], 1.0, -1.2),  # r = 4^(1/2) = 2: held at 1 + ε
        ([math.log(4.0), 0.0], -0.5, 1.0),  # a bad answer that became likelier is never let off
        ([math.log(0.25), 0.0], 1.0, -0.5),  # r = 1/2: a good answer that is unlikely keeps its gradient
        ([math.log(0.25), 0.0], -0.5, 0.4),  # held at 1 − ε
        ([math.log(2e-6), 0.0, 0.0, 0.0], 1.0, -((2e-6) ** 0.25)),  # cold start
    ],
)
def test_loss_by_hand(example, log_ratios, adv, expected):
    behavior_BT = torch.linspace(-2, -0.1, len(log_ratios), dtype=torch.float64)[None]
    logprob_BT = behavior_BT + torch.tensor([log_ratios], dtype=torch.float64)
    mask_BT = torch.ones_like(behavior_BT, dtype=torch.bool)
    loss_B = example.policy_loss(logprob_BT, behavior_BT, torch.tensor([adv], dtype=torch.float64), mask_BT)
    assert loss_B.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_equal_the_librarys(example, seed):
    generator = torch.Generator().manual_seed(seed)
    behavior_BT = -torch.rand(32, 9, generator=generator, dtype=torch.float64)
    noise_BT = 0.5 * torch.randn(32, 9, generator=generator, dtype=torch.float64)
    advantage_B = torch.randn(32, generator=generator, dtype=torch.float64)
    mask_BT = torch.arange(9) < torch.randint(1, 10, (32, 1), generator=generator)
    results = []
    for library in (False, True):
        logprob_BT = (behavior_BT + noise_BT).requires_grad_()
        if library:
            settings = {"clip": example.CLIP, "ratio": "sequence_mean"}
            result = objective.policy_loss(logprob_BT, behavior_BT, advantage_B, mask_BT, **settings)
            assert 0.1 < result.clipped_B.mean() < 0.9, "both branches of the clip must be seen"
            loss_B = result.loss_B
        else:
            loss_B = example.policy_loss(logprob_BT, behavior_BT, advantage_B, mask_BT)
        loss_B.sum().backward()
        results.append((loss_B.detach(), logprob_BT.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_advantage(example):
    no_think_B = torch.tensor([True, True, False, False])
    reward_B = torch.tensor([1.0, 0.0, 1.0, 0.0])
    reference_B = torch.tensor([0.75, 0.75, 1.0, 0.25])
    expected_B = torch.tensor([0.30, -0.70, 0.0, -0.25])
    torch.testing.assert_close(example.advantage(no_think_B, reward_B, reference_B), expected_B)


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("</think>\\boxed{52}<|eos|>", True),
        ("Alright\n47+8=55-3=52\n</think>\\boxed{52}", True),
        ("</think>\\boxed{51}\\boxed{52}", True),  # the last one counts
        ("</think>\\boxed{52}\\boxed{51}", False),
        ("\\boxed{52}</think>51", False),  # boxed inside the thinking
        ("</think>\\boxed{51}</think>\\boxed{52}", True),
        ("</think>\\boxed{52}</think>", False),
        ("\\boxed{52}", False),  # the thinking never closes
        ("</think>\\boxed{520}", False),
        ("</think>\\boxed{-52}", False),
        ("</think>\\boxed{52", False),
        ("</think>52", False),
        ("", False),
    ],
)
def test_checker(example, response, correct):
    assert example.is_correct(response, 52) is correct


def test_problems_are_those_of_the_library(example):
    train, held_out = example.make_problems(example.TRAIN, 20, 3), example.make_problems(example.HELD_OUT, 20, 3)
    assert train == example.make_problems(example.TRAIN, 20, 3) != example.make_problems(example.TRAIN, 20, 4)
    assert example.OPERATIONS_BY_LEVEL == arithmetic.OPERATIONS_BY_LEVEL
    for problems, split in ((train, arithmetic.Split.TRAIN), (held_out, arithmetic.Split.EVALUATION)):
        assert len(set(problems)) == len(problems) == 100
        for index, problem in enumerate(problems):
            chain = as_chain(problem.question)
            assert chain.split is split
            assert len(chain.steps) == example.OPERATIONS_BY_LEVEL[1 + index // 20]
            assert chain.values[-1] == problem.answer
            assert all(0 <= value <= 99 for value in chain.values)
            assert all(1 <= abs(step) <= 9 for step in chain.steps)


def as_chain(question: str) -> arithmetic.Chain:
    first, *steps = question.removesuffix("=?").replace("+", " +").replace("-", " -").split()
    return arithmetic.Chain(int(first), tuple(map(int, steps)))


@pytest.mark.parametrize("first", ["</think>", "Alright", None])
def test_sample(example, random_policy, left_tokenizer, first, monkeypatch):
    """A forced token carries log 0.5; what was sampled carries the policy's own value, at any temperature."""
    monkeypatch.setattr(example, "TEMPERATURE", 0.7)
    monkeypatch.setitem(example.SAMPLING, "temperature", 0.7)
    monkeypatch.setattr(example, "MAX_THINK_TOKENS", 24)
    problems = example.make_problems(example.TRAIN, 4, 0)
    torch.manual_seed(0)
    sampled = example.sample(random_policy.model, left_tokenizer, problems, first)
    num_tokens = sampled.mask_BT.shape[1]
    assert num_tokens <= (16 if first == "</think>" else 24)
    response_BT = sampled.ids_BS[:, -num_tokens:]
    for row, problem in enumerate(problems):
        prompt = sampled.ids_BS[row, :-num_tokens][sampled.attention_BS[row, :-num_tokens].bool()]
        expected = encode_prompt(random_policy.tokenizer, random_policy.template, problem.question)
        assert tuple(prompt.tolist()) == expected
        kept = response_BT[row][sampled.mask_BT[row]].tolist()
        assert left_tokenizer.eos_token_id not in kept[:-1]
        assert len(kept) == num_tokens or kept[-1] == left_tokenizer.eos_token_id
    forced = 0 if first is None else 1
    if first is not None:
        assert set(response_BT[:, 0].tolist()) == {left_tokenizer.convert_tokens_to_ids(first)}
        assert sampled.no_think_B.tolist() == [first == "</think>"] * len(problems)
        assert sampled.behavior_BT[:, 0].tolist() == pytest.approx([math.log(0.5)] * len(problems))
    with torch.no_grad():
        logprob_BT = example.policy_logprobs(random_policy.model, sampled)
    sampled_BT = sampled.mask_BT[:, forced:]
    assert sampled_BT.sum() > len(problems)
    torch.testing.assert_close(
        sampled.behavior_BT[:, forced:][sampled_BT], logprob_BT[:, forced:][sampled_BT], rtol=1e-4, atol=1e-4
    )


class Scripted:
    """Stands where the model stands: `generate` answers with given texts."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, texts

    def generate(self, given_BS, *, max_new_tokens, **_):
        rows = [self.tokenizer.encode(text, add_special_tokens=False)[:max_new_tokens] for text in self.texts]
        width = max(map(len, rows))
        new_BT = torch.tensor([row + [self.tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        logits_BV = torch.zeros(len(rows), len(self.tokenizer))
        sequences_BS = torch.cat([given_BS, new_BT], dim=1)
        return type("Sampled", (), {"sequences": sequences_BS, "scores": (logits_BV,) * width})


def test_rewards_and_lengths(example, left_tokenizer):
    problems = [example.Problem("47+8-3=?", 52), example.Problem("1+1=?", 2)] * 2
    texts = ["\\boxed{52}<|eos|>", "\\boxed{3}<|eos|>", "\\boxed{52}" + "0" * 30, "\\boxed{2}<|eos|>"]
    sampled = example.sample(Scripted(left_tokenizer, texts), left_tokenizer, problems, "</think>")
    assert sampled.reward_B.tolist() == [1, 0, 0, 1]  # the third reached its token limit
    lengths = [1 + len(left_tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    assert sampled.mask_BT.sum(1).tolist() == [min(length, 16) for length in lengths]


def test_reference_is_the_mean_of_free_samples(example, left_tokenizer):
    problems = [example.Problem("47+8-3=?", 52), example.Problem("1+1=?", 2)]
    right, wrong = "Okay\n</think>\\boxed{52}<|eos|>", "</think>\\boxed{3}<|eos|>"
    model = Scripted(left_tokenizer, [right, wrong, right, right, wrong, wrong, wrong, wrong])
    assert example.reference_rewards(model, left_tokenizer, problems, 4) == [0.75, 0]


def test_main_trains_from_the_behavior_policy(example, random_policy, tmp_path, monkeypatch, capsys):
    for name, value in {
        "TRAIN_PER_LEVEL": 1,
        "HELD_OUT_PER_LEVEL": 2,
        "PROBE_STRIDE": 2,
        "MAX_THINK_TOKENS": 20,
    }.items():
        monkeypatch.setattr(example, name, value)
    seen = []

    def spy(logprob_BT, behavior_BT, advantage_B, mask_BT):
        assert not behavior_BT.requires_grad
        seen.append((logprob_BT.detach(), behavior_BT, mask_BT))
        return original(logprob_BT, behavior_BT, advantage_B, mask_BT)

    original = example.policy_loss
    monkeypatch.setattr(example, "policy_loss", spy)
    random_policy.save(tmp_path)
    before = {name: tensor.clone() for name, tensor in random_policy.model.state_dict().items()}
    model = example.main(["--model", str(tmp_path), "--steps", "2", "--problems", "3", "--samples", "4"])

    assert len(seen) == 4  # two modes in two steps
    for logprob_BT, behavior_BT, mask_BT in seen:
        assert len(mask_BT) == 6
        assert behavior_BT[:, 0].tolist() == pytest.approx([math.log(0.5)] * 6)
        assert (logprob_BT[:, 0] < math.log(0.5)).all()
        rest_BT = mask_BT[:, 1:]
        torch.testing.assert_close(logprob_BT[:, 1:][rest_BT], behavior_BT[:, 1:][rest_BT], rtol=1e-4, atol=1e-4)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert all(tensor.isfinite().all() for tensor in after.values())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["step", "1"], ["step", "2"]]
    assert [line.split()[0] for line in lines[2:]] == ["level", "1", "2", "3", "4", "5"]


def test_odd_samples_are_refused(example, capsys):
    with pytest.raises(SystemExit):
        example.main(["--samples", "5"])
    assert "even" in capsys.readouterr().err
