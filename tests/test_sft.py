"""The cold start: think tokens for a model that has none, the loss of both forms of a trace, resuming, LoRA, doctor."""

import copy
import json

import pytest
import torch

import adaptthink as at
from adaptthink.config.resolve import check
from adaptthink.config.schema import SftConfig
from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.models import make_tiny
from adaptthink.models.loading import Policy, find_eos_ids, load_model, load_policy, load_tokenizer
from adaptthink.models.make_tiny import SPECIAL_TOKENS
from adaptthink.models.think_tokens import Additions, add_think_tokens
from adaptthink.modes import Convention, Mode, probe
from adaptthink.problems.traces import Trace, make_trace_of
from adaptthink.processes import Interruption
from adaptthink.sampling.thoughts import judge_thoughts
from adaptthink.storage.kinds import PathKind, identify
from adaptthink.storage.runs import read_metrics
from adaptthink.training.sft import compute_gradient, make_lesson, prepare_lessons

ROW = {"prompt": "12+3=?", "thinking": "Alright.\n12+3=15", "answer": "\\boxed{15}"}
SMALL = {"traces_per_step": 4, "learning_rate": 1e-3, "held_out_traces": 4, "warmup_steps": 0}


def forget_markers(tokenizer):
    """The embedded model's tokenizer without think tokens, and with a template that knows no thinking."""
    plain = copy.deepcopy(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_tiny, "SPECIAL_TOKENS", SPECIAL_TOKENS[:-2])
        plain = make_tiny.make_tokenizer()
    plain.chat_template = plain.chat_template.replace("<think>\n", "")
    return plain


@pytest.fixture(scope="module")
def plain_folder(tokenizer, tmp_path_factory):
    """The embedded model as if it had never thought: think tokens cut off."""
    folder, plain = tmp_path_factory.mktemp("plain"), forget_markers(tokenizer)
    model = load_model("tiny", dtype=torch.float32)
    model.resize_token_embeddings(len(plain))
    model.save_pretrained(folder)
    plain.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return at.make_traces("arithmetic", output=tmp_path_factory.mktemp("traces") / "t.jsonl", problems_per_level=12)


# ---- think tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 5])
def test_new_tokens_begin_as_the_mean_of_their_parts(tokenizer, tied, spare):
    plain, model = forget_markers(tokenizer), None
    config = make_tiny.make_model(plain).config
    config.tie_word_embeddings, config.vocab_size = tied, len(plain) + spare
    torch.manual_seed(1)
    model = make_tiny.Qwen2ForCausalLM(config)
    before = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    assert len(plain("</think>")["input_ids"]) == 8  # byte by byte
    expected = [[weight[plain(text)["input_ids"]].mean(0) for text in ("<think>", "</think>")] for weight in before]
    added = add_think_tokens(plain, model)
    assert [token.id for token in added.tokens] == [plain("<think>")["input_ids"][0], plain("</think>")["input_ids"][0]]
    assert [token.parts for token in added.tokens] == [tuple("<think>"), tuple("</think>")]
    after = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (after[0] is after[1]) == tied
    for weight, means, old in zip(after, expected, before, strict=True):
        assert len(weight) == len(plain) if spare < 2 else len(weight) == len(old)
        for token, mean in zip(added.tokens, means, strict=True):
            torch.testing.assert_close(weight[token.id], mean)
        assert torch.equal(weight[: len(plain) - 2], old[: len(plain) - 2])
    assert added.template == "prompts end in <think>"
    assert probe(plain).convention is Convention.OPEN_PROMPT


def test_a_model_that_has_everything_is_left_alone(tokenizer, random_model):
    own = copy.deepcopy(tokenizer)
    assert add_think_tokens(own, random_model) == Additions()
    assert (len(own), own.chat_template) == (len(tokenizer), tokenizer.chat_template)


def test_a_base_model_gets_a_plain_template(tokenizer, random_model):
    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    added = add_think_tokens(base, random_model)
    assert added.describe() == "a plain chat template, as the model has none; prompts end in <think>"
    turns = [{"role": role, "content": text} for role, text in (("user", "1+1=?"), ("assistant", "2"), ("user", "So?"))]
    text = base.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "User: 1+1=?\nAssistant: 2<|eos|>\nUser: So?\nAssistant: <think>\n"
    assert probe(base).convention is Convention.OPEN_PROMPT


# ---- from traces to tokens ------------------------------------------------------------------------------------------


def write(policy, **row):
    """Both forms of a trace as text: prompt, what is forced, what is learned."""
    lesson = make_lesson(policy, make_trace_of(ROW | row, 1), check(SftConfig, {}))
    decode = policy.tokenizer.decode
    return {
        one.mode: tuple(
            decode(part) for part in (one.prompt_ids, one.response_ids[: one.forced], one.response_ids[one.forced :])
        )
        for one in lesson
    }


def test_both_forms_of_a_trace(random_policy):
    prompt = "<|bos|><|user|>12+3=?<|assistant|><think>\n"
    assert write(random_policy) == {
        Mode.THINK: (prompt, "", "Alright.\n12+3=15\n</think>\n\n\\boxed{15}<|eos|>"),
        Mode.NO_THINK: (prompt, "</think>", "\n\n\\boxed{15}<|eos|>"),
    }
    assert write(random_policy, thinking="") == {Mode.NO_THINK: (prompt, "</think>", "\n\n\\boxed{15}<|eos|>")}


def test_both_forms_in_the_template_of_qwen3(tokenizer, random_model):
    """Its prompts open no thought: the model writes the marker itself, and an empty block means no_think."""
    qwen = copy.deepcopy(tokenizer)
    qwen.chat_template = (
        "{% for m in messages %}<|user|>{{ m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    template = probe(qwen)
    policy = Policy("qwen", random_model, qwen, template, find_eos_ids(random_model, qwen, template))
    think, no_think = (write(policy)[mode] for mode in Mode)
    assert (
        "".join(think) == "<|user|>12+3=?<|eos|><|assistant|><think>\nAlright.\n12+3=15\n</think>\n\n\\boxed{15}<|eos|>"
    )
    assert "".join(no_think) == "<|user|>12+3=?<|eos|><|assistant|><think>\n\n</think>\n\n\\boxed{15}<|eos|>"
    assert no_think[2] == "\\boxed{15}<|eos|>"
    assert think[1] == ""


def test_traces_that_cannot_be_learned(random_policy):
    config = check(SftConfig, {"traces_per_step": 2})
    with pytest.raises(UserError, match=r"'12\+3=\?' cannot be written in the chat template: .* holds </think>"):
        write(random_policy, answer="15</think>")
    questions = [Trace(make_trace_of(ROW | {"prompt": f"{n}+1=?"}, 1).messages, "Alright.", "1") for n in range(30)]
    with pytest.raises(UserError, match="no trace has a thought"):
        prepare_lessons(random_policy, [Trace(one.messages, "", "1") for one in questions], config)
    with pytest.raises(UserError, match="8 traces to train on and 0 held out are too few: a step takes 2"):
        prepare_lessons(random_policy, questions[:8], config)
    lessons = prepare_lessons(random_policy, questions, config)
    assert (len(lessons.training), len(lessons.held_out), lessons.notes) == (27, 3, ())
    twice = [*questions, *(Trace(one.messages, "Alright again.", "1") for one in questions)]
    again = prepare_lessons(random_policy, twice, config)
    held_out, trained = ({one[0].prompt_ids for one in part} for part in (again.held_out, again.training))
    assert (len(again.held_out), held_out & trained) == (6, set())
    assert {one[0].prompt_ids for one in lessons.held_out} == held_out
    long = prepare_lessons(
        random_policy,
        [*questions, make_trace_of(ROW | {"thinking": "1" * 60}, 1)],
        check(SftConfig, {"traces_per_step": 2, "max_trace_tokens": 50}),
    )
    assert long.notes == ("1 traces left out, of more than 50 tokens (max_trace_tokens, or the model's context)",)
    other = [Trace(one.messages, "Okay.", "1") for one in questions]
    [note] = prepare_lessons(random_policy, other, config).notes
    assert note.startswith("100% of the thoughts begin with 'Okay', which think_start does not: give it the words")


# ---- loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch_tokens", [40, 4096])
def test_loss_and_gradient_are_those_of_plain_cross_entropy(random_policy, micro_batch_tokens):
    """Computed once more by hand: every sequence alone, labels of -100 where no loss is to be."""
    policy = random_policy
    policy.model.double()
    config = check(SftConfig, {"micro_batch_tokens": micro_batch_tokens, "no_think_weight": 2.5, "max_grad_norm": 1e9})
    rows = [ROW, {"prompt": "7-2=?", "thinking": "Okay, 7-2=5", "answer": "5"}, ROW | {"thinking": "Alright. So 15."}]
    lessons = [make_lesson(policy, make_trace_of(row, 1), config) for row in rows]
    metrics = compute_gradient(policy.model, lessons, config, 1)
    found = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}
    policy.model.zero_grad()
    total, weights = 0.0, 0.0
    sums = {Mode.THINK: [], Mode.NO_THINK: []}
    for one in (example for lesson in lessons for example in lesson):
        ids = torch.tensor([one.prompt_ids + one.response_ids])
        labels = ids.clone()
        labels[0, : len(one.prompt_ids) + (one.mode is Mode.NO_THINK)] = -100  # the question, and </think> if at once
        logits = policy.model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="none")
        weight = 1.0 if one.mode is Mode.THINK else 2.5
        total, weights = total + weight * loss.sum(), weights + weight * int((labels != -100).sum())
        sums[one.mode] += loss[labels[0, 1:] != -100].tolist()
    (total / weights).backward()
    assert metrics["loss"] == pytest.approx((total / weights).item(), rel=1e-6)
    for mode in Mode:
        assert metrics[f"loss_{mode}"] == pytest.approx(sum(sums[mode]) / len(sums[mode]), rel=1e-5)
    assert metrics["learned_tokens"] == len(sums[Mode.THINK]) + len(sums[Mode.NO_THINK])
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(
            found[name], parameter.grad, rtol=1e-4, atol=1e-7
        )  # logits are normalised in float32


def test_a_weight_of_zero_leaves_out_answers_at_once(random_policy):
    config = check(SftConfig, {"no_think_weight": 0.0})
    metrics = compute_gradient(
        random_policy.model, [make_lesson(random_policy, make_trace_of(ROW, 1), config)], config, 1
    )
    assert metrics["loss_no_think"] is None
    assert metrics["loss"] == metrics["loss_think"]


# ---- training -------------------------------------------------------------------------------------------------------


class Notes(at.Callback):
    def __init__(self):
        self.messages, self.steps = [], []

    def on_message(self, message):
        self.messages.append(message)

    def on_step(self, metrics):
        self.steps.append(metrics["step"])


def test_a_cold_start_from_a_model_without_think_tokens(plain_folder, traces, tmp_path):
    """It thinks when left free, closes its thoughts, and has not learned to choose."""
    notes = Notes()
    with pytest.raises(UserError, match="give this one a cold start"):
        load_policy(str(plain_folder))
    settings = SMALL | {"traces_per_step": 8, "steps": 14, "probe_every": 7}
    run = at.sft(str(plain_folder), traces, output=tmp_path / "run", callbacks=[notes], **settings)
    first, last = run.metrics[0], run.metrics[-1]
    assert [row["step"] for row in run.metrics] == notes.steps == [*range(1, 15)]
    assert [row["step"] for row in run.metrics if "held_out_loss_think" in row] == [7, 14]
    assert last["loss_think"] < first["loss_think"] / 2
    assert last["loss_no_think"] < first["loss_no_think"] / 2
    assert last["held_out_think_start_probability"] > 0.5
    assert last["held_out_no_think_probability"] < 0.01
    folder = tmp_path / "run"
    assert identify(folder) is PathKind.COLD_START
    recorded = json.loads((folder / "think_tokens.json").read_text())
    assert [token["parts"] for token in recorded["tokens"]] == [[*"<think>"], [*"</think>"]]
    assert recorded["template"] == "prompts end in <think>"
    card = (folder / "model/README.md").read_text()
    assert "14 steps of 8 traces" in card
    assert "</think> (299) from the mean of < / t h i n k >; prompts end in <think>" in card
    trained = load_policy(str(folder / "model"))
    assert trained.template.convention is Convention.OPEN_PROMPT
    ids = torch.tensor([trained.tokenizer("<|user|>1+1=?")["input_ids"]])
    assert torch.equal(trained.model(input_ids=ids).logits, run.model.model(input_ids=ids).logits)
    assert [message.partition(":")[0] for message in notes.messages] == [
        "think tokens and template", "step 0 of 14", "step 7 of 14", "step 14 of 14",
        f"model saved in {folder / 'model'}",
    ]  # fmt: skip


class InterruptAt(at.Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, metrics):
        if metrics["step"] == self.step:
            raise Interruption(15)


def test_an_interrupted_cold_start_goes_on_bit_for_bit(traces, tmp_path):
    settings = SMALL | {"steps": 5, "probe_every": 2, "checkpoint_every": 3, "lora_rank": 0}
    whole = at.sft("tiny", traces, output=tmp_path / "whole", **settings)
    with pytest.raises(Interruption):
        at.sft("tiny", traces, output=tmp_path / "cut", callbacks=[InterruptAt(2)], **settings)
    assert not (tmp_path / "cut/model").exists()
    with pytest.raises(UserError, match="is in use: give another --output, --resume to go on"):
        at.sft("tiny", traces, output=tmp_path / "cut", **settings)
    with pytest.raises(UserError, match="the traces changed since it began"):
        at.sft("tiny", traces[:-1], output=tmp_path / "cut", resume=True, **settings)
    with pytest.raises(UserError, match=r"no_think_weight was 3.0 and is now 1.0"):
        at.sft("tiny", traces, output=tmp_path / "cut", resume=True, no_think_weight=1.0, **settings)
    cut = at.sft("tiny", traces, output=tmp_path / "cut", resume=True, **settings)
    assert drop_seconds(cut) == drop_seconds(whole)
    saved = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert saved[0] == saved[1]
    again = at.sft("tiny", traces, output=tmp_path / "cut", clean=True, **settings | {"steps": 1})
    assert len(again.metrics) == 1


def drop_seconds(run):
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in run.metrics]


def test_an_adapter_trains_new_tokens_too(plain_folder, traces, tmp_path):
    pytest.importorskip("peft")
    settings = SMALL | {"steps": 2, "lora_rank": 4, "learning_rate": 1e-2}
    run = at.sft(str(plain_folder), traces, output=tmp_path / "run", **settings)
    trained = load_model(str(tmp_path / "run/model"), dtype=torch.float32)
    before, after = (
        model.get_input_embeddings().weight for model in (load_model(str(plain_folder), dtype=torch.float32), trained)
    )
    assert torch.equal(before, after[: len(before)])  # frozen
    mean = before[load_tokenizer(str(plain_folder))("</think>")["input_ids"]].mean(0)
    assert not torch.allclose(after[-1], mean, atol=1e-4)  # its own
    ids = torch.tensor([run.model.tokenizer("<|user|>1+1=?</think>")["input_ids"]])
    torch.testing.assert_close(
        trained(input_ids=ids).logits, run.model.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
    )
    assert not (tmp_path / "run/adapter").exists()  # which would need a model with the new tokens
    at.sft("tiny", traces, output=tmp_path / "tiny", **settings)
    assert (tmp_path / "tiny/adapter/adapter_config.json").is_file()


def test_a_loaded_model_is_trained_in_place(traces, tmp_path):
    policy = load_policy("tiny")
    before = policy.model.get_input_embeddings().weight.detach().clone()
    run = at.sft(policy, traces, output=tmp_path / "run", **SMALL | {"steps": 1})
    assert run.model.model is policy.model
    assert not torch.equal(before, policy.model.get_input_embeddings().weight)


def test_the_command(run, traces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": one.messages[0].content, "thinking": one.thinking, "answer": one.answer} for one in traces]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = 'model = "tiny"\nproblems = "words"\n[sft]\nsteps = 1\ntraces_per_step = 3\n'
    (tmp_path / "r.toml").write_text(recipe)
    status, out, err = run("sft", "r.toml", "--traces", "t.jsonl", "--output", "s", "--json", "s.json")
    assert (status, err) == (0, "")
    assert "step 1 of 1: held-out loss of a token" in out
    result = json.loads((tmp_path / "s.json").read_text())
    assert (result["model"], result["step"]) == ("s/model", 1)
    assert len(read_metrics(tmp_path / "s/metrics.jsonl")) == 1
    for flags, message in (
        (("--lora-alpha", "3"), "lora_alpha has no effect: lora_rank is 0, so the weights themselves are trained"),
        (("--temperature", "1"), "--temperature has no effect in sft: it is a setting of train"),
        (("--traces", "r.toml"), "--traces: 'r.toml' is a recipe, and a file of traces"),
        (("--traces", "none.jsonl"), "no file of traces 'none.jsonl'; make one: adaptthink traces --output none.jsonl"),
        (("--traces", "t.jsonl", "--output", "s"), "output folder 's' is in use: give another --output"),
    ):
        status, _, err = run("sft", "r.toml", *flags)
        assert (status, err.startswith(f"adaptthink: {message}")) == (2, True), err
    status, _, err = run("presample", "--model", "s")
    assert "model: 's' is a cold start's folder, and a model folder is needed; give 's/model'" in err


# ---- doctor ---------------------------------------------------------------------------------------------------------


def respond(answer, finish, tokens, thinking_tokens=5):
    return at.Response(Mode.THINK, "so", answer, finish, tokens, thinking_tokens)


CLOSED, CUT = respond("4", Finish.STOP, 9), respond(None, Finish.LENGTH, 64)
UNCLOSED = respond(None, Finish.STOP, 1)


@pytest.mark.parametrize(
    ("responses", "probability", "ok", "found"),
    [
        ([CLOSED, UNCLOSED, CUT, CUT], 0.0, True, "1 of 4 thoughts closed, after 5 tokens on average"),
        ([UNCLOSED, UNCLOSED, CUT, CUT], 0.9, False, "2 of 4 thoughts ended without </think>, after 1 tokens"),
        ([CUT] * 4, 0.02, True, "none of 4 thoughts ended within 64 tokens; P(</think>) is 2.0e-02"),
        ([CUT] * 4, 5e-4, False, "none of 4 thoughts closed within 64 tokens, and P(</think>) is 5.0e-04"),
        ([CUT] * 4, 1e-7, False, "none of 4 thoughts closed within 64 tokens, and P(</think>) is 1.0e-07"),
    ],
)
def test_who_needs_a_cold_start(responses, probability, ok, found):
    checked = judge_thoughts(responses, probability, "</think>")
    assert (checked.ok, checked.value.startswith(found)) == (ok, True), checked.value
    assert ("give it a cold start (adaptthink sft, docs/how-to/cold_start.md)" in checked.value) != ok


def test_think_tokens_that_were_merely_added_are_no_thinking(plain_folder, tmp_path, run):
    tokenizer, model = load_tokenizer(str(plain_folder)), load_model(str(plain_folder), dtype=torch.float32)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=False)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    status, out, err = run("doctor", tmp_path)
    assert status == 2
    assert "not ready" in out
    assert "ended without </think>" in err
    assert "give it a cold start (adaptthink sft, docs/how-to/cold_start.md)" in err
    [thoughts] = [one for one in at.doctor("tiny").checks if one.name == "thoughts"]
    assert thoughts.ok
    assert thoughts.value.startswith("4 of 4 thoughts closed")
