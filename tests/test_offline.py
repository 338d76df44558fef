"""Methods that learn from stored responses: the store, pairs and credit by hand, gradients by autograd, refusals."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_reference import CONFIG as STORE_CONFIG
from test_reference import PROBLEMS, RESPONSES, TOKENS, VERDICTS, ByStream

import adaptthink as at
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig, VerlConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.integrations.verl.settings import check_config
from adaptthink.models.loading import load_policy
from adaptthink.models.merging import merge
from adaptthink.modes import Mode, probe
from adaptthink.problems import make_problem
from adaptthink.sampling.sampler import Pending, Sampler
from adaptthink.training.batch import Batch, RolloutSummary, summarise_rollout
from adaptthink.training.initial import keep_initial, score_rollouts
from adaptthink.training.methods import check_method, load_method
from adaptthink.training.methods.dast import make_pairs
from adaptthink.training.offline import StoredRollouts
from adaptthink.training.reference import StoredResponse, presample
from adaptthink.training.replay import check_store, make_rollout, replay
from adaptthink.training.update import accumulate_gradients

R, W, CUT, LOST = Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED, Verdict.UNKNOWN
OFFLINE = ("dast", "dpo_shortest", "o1_pruner", "overthink", "rft_mixthinking")
KEEPING = STORE_CONFIG.model_copy(update={"keep_responses": True, "no_think_samples": 2})
SMALL = {"max_think_tokens": 48, "max_no_think_tokens": 12, "temperature": 1.0, "learning_rate": 1e-3}


def config(method, **values):
    return check(TrainConfig, SMALL | {"method": method, "steps": 4, "problems_per_step": 2} | values)


@pytest.fixture
def sampler(tokenizer):
    return Sampler(ScriptedEngine(lambda prompt, prefix: []), tokenizer, probe(tokenizer))


# ---- the store -------------------------------------------------------------------------------------------------------


class Forced(ByStream):
    """Answers the forced samples too: right at first, then wrong."""

    def __init__(self, parts, **options):
        super().__init__(parts, **options)
        for problem in PROBLEMS:
            for position, answer in ((4, problem.answer), (5, "9")):
                stream = int(problem.id, 16) + position * 0x9E3779B97F4A7C15
                text = f"\\boxed{{{answer}}}<|eos|>"  # behind the forced close token
                self.answers[stream] = parts[0].encode(text, add_special_tokens=False)


def fill(tokenizer, path, config=KEEPING, problems=PROBLEMS, **options):
    engine = Forced((tokenizer, probe(tokenizer)), **options)
    return presample(engine.sampler, problems, config, fingerprint="f00d", path=path), engine


def test_a_store_keeps_every_token_and_its_reference_is_that_of_the_unconstrained_samples(tokenizer, tmp_path):
    found, engine = fill(tokenizer, tmp_path / "r.jsonl")
    plain, _ = fill(tokenizer, tmp_path / "plain.jsonl", STORE_CONFIG)
    close = probe(tokenizer).close_id
    for problem in PROBLEMS:
        assert found[problem.id] == plain[problem.id]
        free, forced = found.read_responses(problem.id)
        assert [len(one.token_ids) for one in free] == TOKENS[problem.prompt]
        assert [one.verdict for one in free] == VERDICTS[problem.prompt]
        for one, text in zip(free, RESPONSES[problem.prompt], strict=True):
            assert one.token_ids == tuple(tokenizer.encode(text + "<|eos|>", add_special_tokens=False))[:20]
        assert [one.verdict for one in forced] == [R, W]
        assert [one.token_ids[0] for one in forced] == [close] * 2
    asked = [(one.prefix_ids, one.max_tokens) for one in engine.requests]
    assert asked == ([((), 20)] * 4 + [((close,), 8)] * 2) * 3
    assert len({one.stream for one in engine.requests}) == 18


def test_an_interrupted_store_ends_as_an_uninterrupted_one(tokenizer, tmp_path):
    path = tmp_path / "r.jsonl"
    fill(tokenizer, path)
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(RuntimeError, match="power cut"):
        fill(tokenizer, path, fail_after=6)
    _, engine = fill(tokenizer, path)
    assert len(engine.requests) == 12
    assert path.read_bytes() == whole
    lines = whole.split(b"\n")
    row = json.loads(lines[2])
    row["no_think"]["responses"].pop()
    path.write_bytes(b"\n".join([*lines[:2], json.dumps(row).encode(), *lines[3:]]))
    with pytest.raises(UserError, match="line 3: damaged"):
        fill(tokenizer, path)


def test_what_a_store_keeps_is_decided_by_who_presamples(tokenizer, tmp_path):
    path, old = tmp_path / "r.jsonl", tmp_path / "old.jsonl"
    fill(tokenizer, path, problems=PROBLEMS[:2])
    fill(tokenizer, old, STORE_CONFIG)
    content = old.read_bytes()
    for store, config in ((path, STORE_CONFIG), (old, KEEPING)):
        with pytest.raises(UserError, match=r"keep_responses was .* no_think_samples was (2|0) and is now"):
            fill(tokenizer, store, config)
    training = TrainConfig(**STORE_CONFIG.model_dump(exclude={"all_problems", "keep_responses", "no_think_samples"}))
    found, engine = fill(tokenizer, path, training)  # completes it in the store's own way
    assert len(engine.requests) == 6
    assert [len(part) for part in found.read_responses(PROBLEMS[2].id)] == [4, 2]
    _, engine = fill(tokenizer, old, training)
    assert engine.requests == []
    assert old.read_bytes() == content
    with pytest.raises(UserError, match="max_no_think_tokens was 8 and is now 7"):
        fill(tokenizer, path, training.model_copy(update={"max_no_think_tokens": 7}))


def test_no_think_samples_imply_that_responses_are_kept(tokenizer, tmp_path):
    fill(tokenizer, tmp_path / "a.jsonl", STORE_CONFIG.model_copy(update={"no_think_samples": 2}))
    fill(tokenizer, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


# ---- which responses -------------------------------------------------------------------------------------------------


def respond(sampler, problem, text, verdict=R, *, end="<|eos|>"):
    """A replayed rollout of this text."""
    ids = tuple(sampler.tokenizer.encode(text + end, add_special_tokens=False))
    pending = Pending(problem, sampler.encode_prompt(problem), 0, 1.0)
    return make_rollout(sampler, pending, StoredResponse(ids, verdict), (sampler.tokenizer.eos_token_id,))


def think(sampler, problem, attempts, verdict=R, start="Alright"):
    """A thought of these attempts, and their last value as its answer."""
    text = start + "\n" + "\nWait\n".join(attempts) + "\n</think>\\boxed{" + attempts[-1].rpartition("=")[2] + "}"
    return respond(sampler, problem, text, verdict)


def at_once(sampler, problem, answer, verdict=R):
    return respond(sampler, problem, f"</think>\\boxed{{{answer}}}", verdict)


def read(sampler, rollouts):
    return [sampler.tokenizer.decode(one.response_ids) for one in rollouts]


P = make_problem("47+8=?", "55")
RIGHT, WRONG = "47+8=55", "47+8=54"


@pytest.fixture
def group(sampler):
    """Thoughts of 1, 3, 2, 2 attempts, the last of them wrong, and one that was cut; two of three right at once."""
    thoughts = [[RIGHT], [RIGHT] * 3, [WRONG, RIGHT], [RIGHT, WRONG]]
    free = [think(sampler, P, one, W if one[-1] is WRONG else R) for one in thoughts]
    free.append(respond(sampler, P, "Alright\n" + "47" * 40, CUT, end=""))
    return StoredRollouts(
        free, [at_once(sampler, P, answer, verdict) for answer, verdict in ((55, R), (5, W), (55, R))]
    )


def choose(name, groups, sampler):
    return load_method(name).choose_rollouts(groups, sampler, config(name))


def test_replayed_rollouts_are_read_as_sampled_ones(group, sampler):
    assert [one.mode for one in group.unconstrained] == [Mode.THINK] * 5
    assert [one.mode for one in group.no_think] == [Mode.NO_THINK] * 3
    assert group.unconstrained[0].response.answer == "\\boxed{55}"
    assert group.unconstrained[0].response.finished
    assert not group.unconstrained[-1].response.finished
    assert {one.num_forced for one in (*group.unconstrained, *group.no_think)} == {0}


def test_rft_keeps_the_correct_responses_of_the_better_mode(group, sampler):
    """Three of five thoughts are right, two of three answers: no_think is better, and not if all thoughts are right."""
    assert choose("rft_mixthinking", [group], sampler) == [group.no_think[0], group.no_think[2]]
    always = StoredRollouts(group.unconstrained[:3], group.no_think)
    assert choose("rft_mixthinking", [always], sampler) == list(always.unconstrained)
    assert choose("rft_mixthinking:margin=0.4", [always], sampler) == [group.no_think[0], group.no_think[2]]
    never = StoredRollouts(group.unconstrained[3:], [group.no_think[1]])
    assert choose("rft_mixthinking", [never], sampler) == []
    tie = StoredRollouts(group.unconstrained[:1], group.no_think[:1])
    assert choose("rft_mixthinking", [tie], sampler) == [group.no_think[0]]
    lost = replace(group.no_think[0], grade=Grade(LOST, None, Rule.FORM))
    ungraded = StoredRollouts(group.unconstrained[:1], [lost, group.no_think[0]])
    assert choose("rft_mixthinking", [ungraded], sampler) == [group.no_think[0]]


def test_dpo_pairs_the_shortest_correct_response_with_the_longest(group, sampler):
    assert choose("dpo_shortest", [group, group], sampler) == [group.unconstrained[0], group.unconstrained[-1]] * 2
    same = StoredRollouts([group.unconstrained[0]] * 2, ())
    wrong = StoredRollouts(group.unconstrained[3:], ())
    assert choose("dpo_shortest", [same, wrong], sampler) == []


@pytest.mark.parametrize(
    ("attempts", "thought", "kept"),
    [
        (2, [RIGHT] * 3, [RIGHT] * 2),
        (1, [RIGHT] * 3, [RIGHT]),
        (2, [RIGHT, WRONG, RIGHT, RIGHT], [RIGHT, WRONG, RIGHT]),
        (2, [WRONG, RIGHT], [WRONG, RIGHT]),
        (1, ["47+8=155", RIGHT, RIGHT], ["47+8=155", RIGHT]),
        (9, [RIGHT] * 3, [RIGHT] * 3),
    ],
)
def test_overthink_cuts_behind_the_second_correct_attempt(sampler, attempts, thought, kept):
    """The cut response is token for token the one that stopped there; 155 is not 55."""
    method = load_method(f"overthink:attempts={attempts}")
    cut = method.cut(think(sampler, P, thought), sampler)
    assert cut.response_ids == think(sampler, P, kept).response_ids


def test_overthink_pairs_the_shortest_cut_with_the_longest_correct(group, sampler):
    three = group.unconstrained[1]
    found = choose("overthink", [StoredRollouts([three], ()), group], sampler)
    assert [one.response_ids for one in found] == [
        think(sampler, P, [RIGHT] * 2).response_ids, three.response_ids,
        group.unconstrained[0].response_ids, three.response_ids,
    ]  # fmt: skip
    assert choose("overthink", [StoredRollouts([group.unconstrained[0]], ())], sampler) == []


def sized(tokens, verdict, sampler):
    return respond(sampler, P, "7" * tokens, verdict, end="")


def test_dast_by_hand(sampler):
    """Half of four are right, of mean length 20: the budget is 10 + 24 = 34 of 48 tokens."""
    free = [sized(tokens, verdict, sampler) for tokens, verdict in ((10, R), (30, R), (17, W), (34, W))]
    correct, wrong = make_pairs(StoredRollouts(free, ()), 48)
    assert correct[0] == pytest.approx((30 - 10) / 34 * 0.5)
    assert correct[1:] == (free[0], free[1])
    assert wrong[0] == pytest.approx(-0.1 - (0.9 * -0.5 - 0.1))
    assert wrong[1:] == (free[3], free[2])
    truncated = [free[0], free[1], free[2], replace(free[3], grade=Grade(CUT, None, Rule.FORM))]
    assert len(make_pairs(StoredRollouts(truncated, ()), 48)) == 1
    assert choose("dast:share=0.5", [StoredRollouts(free, ())], sampler) == [free[3], free[2]]
    assert len(choose("dast:share=0", [StoredRollouts(free, ())], sampler)) == 4


# ---- credit by hand --------------------------------------------------------------------------------------------------


def summary(tokens, logprob, initial=None, verdict=R, problem="a"):
    return RolloutSummary(problem, Mode.THINK, verdict, tokens, -1.0, logprob=logprob, initial_logprob=initial)


def credit(name, rollouts):
    batch = Batch(rollouts, [0.5] * len(rollouts), 0.0)
    found = load_method(name).assign_credit(batch, config(name))
    assert all(one.decision == one.body and not one.pull for one in found)
    return [one.body for one in found]


def test_credit_by_hand():
    rollouts = [summary(10, -6.0, -8.0), summary(30, -12.0, -11.0), summary(5, -1.0, -1.0), summary(9, -2.0, -2.0)]
    assert credit("rft_mixthinking", rollouts) == pytest.approx([4 / 54] * 4)
    sigmoid = 1 / (1 + math.exp(0.1 * 3.0))
    assert credit("dpo_shortest", rollouts) == pytest.approx([0.2 * sigmoid, -0.2 * sigmoid, 0.1, -0.1])
    first, second = (1 / (1 + math.exp(2 * (x - y) - 0.6)) for x, y in ((-0.6, -0.4), (-0.2, -2 / 9)))
    expected = [4 * first / 10, -4 * first / 30, 4 * second / 5, -4 * second / 9]
    for name in ("overthink", "dast"):
        assert credit(name, rollouts) == pytest.approx(expected)


def test_o1_pruner_by_hand():
    """Lengths 10, 20, 30 and one ungraded of 20; half of λ·(A − Ā) with two of three right; all ratios 1 but two."""
    rollouts = [summary(10, -5, -5), summary(20, -5, -5 - 20 * 0.1), summary(30, -9, -9, W), summary(20, -5, -5, LOST)]
    values = [20 / 10 - 1 + 2 / 3, 0 + 2 / 3, 20 / 30 - 1 - 4 / 3]
    mean = sum(values) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
    first, second, third = ((value - mean) / deviation for value in values)
    assert second > 0 > third
    expected = [first / 10, math.exp(0.1) * second / 20, third / 30, 0.0]
    assert credit("o1_pruner", rollouts) == pytest.approx(expected)
    rollouts[1] = summary(20, -5, -5 - 20 * 0.3)  # e^0.3 is beyond 1.2, and the response is to become more likely
    rollouts[2] = summary(30, -9, -9 - 30 * 0.3, W)  # beyond it too, but to become less likely
    assert credit("o1_pruner", rollouts) == pytest.approx([first / 10, 0.0, math.exp(0.3) * third / 30, 0.0])


# ---- gradients against autograd of the textbook losses ---------------------------------------------------------------


def score(model, one):
    """The log-probabilities of a response's tokens, on a plain forward of its own."""
    logit_TV = model(torch.tensor([one.prompt_ids + one.response_ids])).logits[0]
    start = len(one.prompt_ids)
    logprob_TV = logit_TV[start - 1 : -1].log_softmax(-1)
    return logprob_TV.gather(-1, torch.tensor(one.response_ids)[:, None])[:, 0]


def cross_entropy(model, initial, rollouts):
    return -torch.cat([score(model, one) for one in rollouts]).mean()


def dpo(model, initial, rollouts):
    shift = [score(model, one).sum() - score(initial, one).sum().detach() for one in rollouts]
    margins = [chosen - rejected for chosen, rejected in zip(shift[::2], shift[1::2], strict=True)]
    return -torch.nn.functional.logsigmoid(0.1 * torch.stack(margins)).mean()


def simpo(model, initial, rollouts):
    means = [score(model, one).mean() for one in rollouts]
    margins = [chosen - rejected for chosen, rejected in zip(means[::2], means[1::2], strict=True)]
    return -torch.nn.functional.logsigmoid(2.0 * torch.stack(margins) - 0.6).mean()


def pruner(model, initial, rollouts):
    lengths = torch.tensor([float(len(one.response_ids)) for one in rollouts])
    accuracy = torch.tensor([float(one.verdict is R) for one in rollouts])
    reward = lengths.mean() / lengths - 1 + 2 * (accuracy - accuracy.mean())
    reward = (reward - reward.mean()) / reward.std(correction=0)
    log_ratio = [(score(model, one) - score(initial, one).detach()).mean() for one in rollouts]
    ratio = torch.stack(log_ratio).exp()
    return -torch.minimum(ratio * reward, ratio.clamp(0.8, 1.2) * reward).mean()


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("rft_mixthinking", cross_entropy),
        ("dpo_shortest", dpo),
        ("overthink", simpo),
        ("dast:share=0", simpo),
        ("o1_pruner", pruner),
    ],
)
def test_the_gradient_of_a_step_is_that_of_the_textbook_loss(random_policy, group, sampler, name, loss):
    """In float64, with a policy that is no longer the one before training."""
    policy = replace(random_policy, model=random_policy.model.double())
    initial = keep_initial(policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    settings = config(name, micro_batch_tokens=100)
    method = load_method(name)
    rollouts = method.choose_rollouts([group], sampler, settings)
    assert len(rollouts) >= 2
    scored = score_rollouts(policy.model, rollouts, settings)
    rollouts = [replace(one, behavior_logprobs=own) for one, own in zip(rollouts, scored, strict=True)]
    if method.initial_modes:
        rollouts = initial.score(rollouts, method.initial_modes, settings)
        assert rollouts[0].initial_logprobs != rollouts[0].behavior_logprobs
    summaries = [summarise_rollout(one) for one in rollouts]
    credits = method.assign_credit(Batch(summaries, [0.5] * len(rollouts), 0.0), settings)
    policy.model.zero_grad()
    found = accumulate_gradients(policy.model, rollouts, credits, settings).loss
    ours = torch.cat([one.grad.flatten() for one in policy.model.parameters()])
    policy.model.zero_grad()
    expected = loss(policy.model, initial.model, rollouts)
    expected.backward()
    theirs = torch.cat([one.grad.flatten() for one in policy.model.parameters()])
    # The model's norms and the credits are in float32.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
    if loss is cross_entropy:
        assert found == pytest.approx(expected.item(), rel=1e-5)


# ---- whole trainings -------------------------------------------------------------------------------------------------

FROM_TINY = SMALL | {"problems_per_level": 4, "reference_samples": 3, "reference_temperature": 1.0, "steps": 3}
FROM_TINY |= {"problems_per_step": 6, "probe_problems_per_level": 1, "problems": "arithmetic"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "reference.jsonl"
    settings = {
        key: value for key, value in FROM_TINY.items() if key not in ("temperature", "learning_rate", "problems")
    }
    at.presample("tiny", "arithmetic", output=path, no_think_samples=3, **settings)
    return path


def train(store, folder, method, **values):
    settings = {key: value for key, value in FROM_TINY.items() if key != "problems"} | values
    return at.train("tiny", "arithmetic", store, output=folder, method=method, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("method", OFFLINE)
def test_a_training_from_python_samples_nothing_and_resumes_to_the_same_weights(store, tmp_path, monkeypatch, method):
    monkeypatch.setattr("adaptthink.training.train.collect", None)
    content = store.read_bytes()
    run = train(store, tmp_path / "whole", method)
    assert store.read_bytes() == content
    assert len(run.metrics) == 3
    assert all(row["responses"] and "generate_seconds" not in row for row in run.metrics)
    assert "stored responses" in (run.folder / "model" / "README.md").read_text()

    class Stop(at.Callback):
        def on_step(self, metrics):
            if metrics["step"] == 2:
                raise KeyboardInterrupt

    settings = {"checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "parts", method, callbacks=[Stop()], **settings)
    train(store, tmp_path / "parts", method, resume=True, **settings)
    whole, parts = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    base = load_policy("tiny", device="cpu").model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not all(torch.equal(whole[name], base[name]) for name in whole)


def test_rft_raises_the_probability_of_no_think(store, tmp_path):
    run = train(store, tmp_path / "run", "rft_mixthinking:margin=1", steps=6, probe_every=1)
    probed = [row["probe_no_think_logprob"] for row in run.metrics]
    assert probed[-1] > probed[0] + 1
    assert probed == sorted(probed)


def test_a_step_of_nothing_to_learn_from_changes_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr("adaptthink.training.methods.dpo_shortest.select_correct", lambda rollouts: [])
    run = train(store, tmp_path / "run", "dpo_shortest", steps=1)
    base = load_policy("tiny", device="cpu").model.state_dict()
    assert all(torch.equal(one, base[name]) for name, one in run.model.model.state_dict().items())
    assert run.metrics[0]["responses"] == 0


def test_replay_scores_under_the_policy_as_it_is(store, tmp_path):
    policy, settings = load_policy("tiny", device="cpu"), config("rft_mixthinking", **FROM_TINY)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.1)
    problems = at.load_problems("arithmetic", split="train", per_level=4)
    references = at.presample(
        "tiny", problems, output=tmp_path / "r.jsonl", samples=2, no_think_samples=2, **SMALL_STORE
    )
    sampler = Sampler(ScriptedEngine(lambda prompt, prefix: []), policy.tokenizer, policy.template)
    rollouts = replay(policy, sampler, references, problems[:3], settings)
    assert rollouts
    for one in rollouts:
        with torch.no_grad():
            assert list(one.behavior_logprobs) == pytest.approx(score(policy.model, one).tolist(), abs=1e-4)


SMALL_STORE = {"max_think_tokens": 48, "max_no_think_tokens": 12}


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_store_that_lacks_what_a_method_learns_from(store, tmp_path, tokenizer):
    plain, thoughts = tmp_path / "plain.jsonl", tmp_path / "thoughts.jsonl"
    fill(tokenizer, plain, STORE_CONFIG)
    fill(tokenizer, thoughts, STORE_CONFIG.model_copy(update={"keep_responses": True}))
    check_store(config("dpo_shortest"), thoughts)
    check_store(config("rft_mixthinking"), store)
    check_store(config("adaptthink"), None)
    for method, path, message in [
        (
            "dpo_shortest",
            None,
            "no reference store is given; make one with: adaptthink presample RECIPE --keep-responses",
        ),
        (
            "dpo_shortest",
            plain,
            "has no responses; make another with: adaptthink presample RECIPE --keep-responses --out",
        ),
        ("rft_mixthinking", thoughts, "has no no_think responses; make another with: .* --no-think-samples 8 --output"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            check_store(config(method), path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no reference store is given"):
        train(None, tmp_path / "run", "dpo_shortest")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", OFFLINE)
def test_settings_of_sampling_and_trainers_that_sample_are_refused(method):
    assert load_method(method).from_store
    check_method(config(method))
    for key, value in (("samples_per_problem", 4), ("no_think_share", 0.25), ("delta", 0.1), ("ratio", "token")):
        with pytest.raises(UserError, match=f"{key} has no effect: the method {method} does not read it"):
            check_method(config(method, **{key: value}))
    with pytest.raises(UserError, match=f"method = '{method}' learns from stored responses, and verl samples"):
        check_config(VerlConfig(method=method))
    pytest.importorskip("trl")
    from adaptthink.integrations.trl import AdaptThinkConfig

    with pytest.raises(UserError, match=f"method = '{method}' learns from stored responses, and TRL samples"):
        AdaptThinkConfig(method=method, output_dir="unused", use_cpu=True, per_device_train_batch_size=16)


def test_settings_without_a_pair():
    with pytest.raises(UserError, match="share = 1 drops every pair"):
        check_method(config("dast:share=1"))
    with pytest.raises(UserError, match=r"attempts = 0\.5 leaves no attempt"):
        check_method(config("overthink:attempts=0.5"))


def test_the_demo_samples(run, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[train]\nmethod = "dpo_shortest"\n')
    status, _, err = run("demo", "--recipe", recipe, "--output", tmp_path / "demo")
    assert status == 2
    assert "method = 'dpo_shortest' learns from stored responses, and no reference store is given" in err


# ---- merging ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shifted(tmp_path):
    """The embedded model with every weight one more, in a folder."""
    policy = load_policy("tiny", device="cpu")
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(1.0)
    policy.save(tmp_path / "shifted")
    return tmp_path / "shifted"


def test_a_merged_model_is_the_weighted_mean(run, shifted, tmp_path):
    base = load_policy("tiny", device="cpu").model.state_dict()
    status, out, _ = run("merge", "tiny", shifted, "--weight", 0.25, "--output", tmp_path / "merged")
    assert (status, out) == (0, f"merged model in {tmp_path / 'merged'}\n")
    merged = load_policy(str(tmp_path / "merged"), device="cpu").model.state_dict()
    for name, one in merged.items():
        torch.testing.assert_close(one, base[name] + 0.75, rtol=1e-5, atol=1e-5)
    for weight, share in ((1.0, 0.0), (0.0, 1.0)):
        merge("tiny", str(shifted), weight, tmp_path / f"{weight}")
        found = load_policy(str(tmp_path / f"{weight}"), device="cpu").model.state_dict()
        assert all(torch.allclose(one, base[name] + share, atol=1e-5) for name, one in found.items())


def test_models_that_cannot_be_merged(run, random_policy, tmp_path):
    policy = replace(random_policy, model=copy.deepcopy(random_policy.model))
    policy.model.resize_token_embeddings(320)
    policy.save(tmp_path / "larger")
    status, _, err = run("merge", "tiny", tmp_path / "larger", "--output", tmp_path / "out")
    assert status == 2
    assert "differ in the shape of model.embed_tokens.weight" in err
    (tmp_path / "out").mkdir()
    status, _, err = run("merge", "tiny", "tiny", "--output", tmp_path / "out")
    assert (status, "exists; give a folder that does not" in err) == (2, True)
    with pytest.raises(UserError, match=r"weight = 1\.5 is no share"):
        merge("tiny", "tiny", 1.5, tmp_path / "out")
