"""The plugin in vLLM's own server and in its model runners: each mode, mixed in one batch, streaming and not.

Needs an environment with vLLM: scripts/setup_vllm.sh makes one for a CPU. Expected tokens are the native engine's.
"""

import importlib.util
import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from types import SimpleNamespace

import httpx2 as httpx
import pytest
import torch
from vllm_server import ENGINES_PAGE, KEY, THRESHOLD, read_commands
from waiting import WAIT_SECONDS

from adaptthink.engines.base import Request
from adaptthink.engines.native import NativeEngine
from adaptthink.integrations.vllm.steps import ServerSettings, find_template
from adaptthink.models.loading import load_policy
from adaptthink.modes import encode_prompt
from adaptthink.sampling.responses import GREEDY_TOP_P

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here; scripts/setup_vllm.sh, .venv-vllm"
)

EASY, HARD = "5+5=?", "12+34+56-7=?"
QUESTIONS = (EASY, "47+8=?", HARD, "9-3+77=?")  # P(no_think) of the first two is below the dial's threshold
MAX_TOKENS = 100


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny")


@pytest.fixture(scope="module")
def client(vllm_server):
    with httpx.Client(base_url=vllm_server[0], headers={"Authorization": f"Bearer {KEY}"}, timeout=WAIT_SECONDS) as one:
        yield one


def make_body(question, said, **options):
    body = {"model": "tiny", "messages": [{"role": "user", "content": question}], "max_tokens": MAX_TOKENS}
    return body | {"temperature": 0, "return_token_ids": True} | ({"vllm_xargs": said} if said else {}) | options


def ask(client, question, said=None, **options):
    """Return the first choice of an answer, and its usage."""
    response = client.post("/v1/chat/completions", json=make_body(question, said, **options))
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["choices"][0], answer["usage"]


def ask_streaming(client, question, said=None, **options):
    """Return what a stream adds up to: (thinking, answer, tokens)."""
    thinking, answer, tokens = "", "", []
    body = make_body(question, said, stream=True, **options)
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    thinking += choice["delta"].get("reasoning") or ""
                    answer += choice["delta"].get("content") or ""
                    tokens += choice.get("token_ids") or []
    return thinking or None, answer or None, tokens


@pytest.fixture(scope="module")
def expect(policy):
    """The native engine's greedy tokens, and P(no_think): the same model without vLLM."""
    engine, template = NativeEngine(policy.model, policy.eos_ids), policy.template
    prefixes = {"think": template.think_prefix_ids, "no_think": template.no_think_prefix_ids, "auto": ()}

    def tokens(question, mode):
        prompt = encode_prompt(policy.tokenizer, template, question)
        request = Request(prompt, MAX_TOKENS, 0, prefix_ids=prefixes[mode])
        [found] = engine.generate([request], temperature=1, top_p=GREEDY_TOP_P)
        return list(found.token_ids)

    def logprobs(question, ids):
        [found] = engine.next_token_logprobs([encode_prompt(policy.tokenizer, template, question)], ids)
        return found

    def probability(question):
        return math.exp(logprobs(question, [template.no_think_id])[0])

    return SimpleNamespace(tokens=tokens, logprobs=logprobs, probability=probability)


def split(policy, tokens):
    """Split tokens by the close token, independently of the parser."""
    tokens = [token for token in tokens if token not in policy.eos_ids]
    close = tokens.index(policy.template.close_id)
    thinking, answer = policy.tokenizer.decode(tokens[:close]), policy.tokenizer.decode(tokens[close + 1 :])
    return thinking.strip() or None, answer or None


def test_the_questions_are_of_all_kinds(expect):
    """Else the thresholds below would decide nothing."""
    assert max(expect.probability(question) for question in QUESTIONS[:2]) < 0.8 * THRESHOLD
    assert min(expect.probability(question) for question in QUESTIONS[2:]) > 1.2 * THRESHOLD


def test_the_entry_point_is_installed_and_names_the_class():
    from adaptthink.integrations.vllm.processor import ThinkProcessor

    found = [point for point in entry_points(group="vllm.logits_processors") if "adaptthink" in point.value]
    assert found
    assert found[0].load() is ThinkProcessor


def test_the_request_of_the_page(client):
    _, curl = read_commands()
    body = json.loads(curl[curl.index("-d") + 1])
    answer = client.post("/v1/chat/completions", json=body | {"temperature": 0, "max_tokens": MAX_TOKENS}).json()
    assert "\\boxed{" in answer["choices"][0]["message"]["content"]
    assert set(body["vllm_xargs"]) == {"x_think_mode", "x_think_threshold", "x_think_budget"}
    section = ENGINES_PAGE.read_text(encoding="utf-8")
    assert all(f"`{key}`" in section for key in body["vllm_xargs"])


SAID = (
    ({"x_think_mode": "think"}, "think"),
    ({"x_think_mode": "no_think"}, "no_think"),
    ({"x_think_mode": "auto", "x_think_threshold": 1.0}, "think"),
    ({"x_think_threshold": 0.0}, "no_think"),
    ({"x_think_mode": "auto"}, "dial"),
    (None, "auto"),
)


def test_all_modes_in_one_batch_streaming_and_not(client, policy, expect):
    """Each answer is the one that its own request gets alone, from another engine."""
    cases = [(question, said, mode) for question in QUESTIONS for said, mode in SAID] * 2

    def answer(case):
        number, (question, said, _) = case
        if number % 2:
            return ask_streaming(client, question, said)
        choice, _ = ask(client, question, said)
        return choice["message"]["reasoning"], choice["message"]["content"], choice["token_ids"]

    with ThreadPoolExecutor(len(cases)) as pool:
        answers = list(pool.map(answer, enumerate(cases)))
    seen = set()
    by_dial = {q: "no_think" if expect.probability(q) >= THRESHOLD else "think" for q in QUESTIONS}
    for (question, _, requested), (thinking, content, tokens) in zip(cases, answers, strict=True):
        mode = by_dial[question] if requested == "dial" else requested
        assert tokens == expect.tokens(question, mode)
        assert (thinking, content) == split(policy, tokens)
        seen.add((mode, thinking is None))
    assert {("think", False), ("no_think", True)} <= seen


def test_a_threshold_decides_each_question_by_its_own_probability(client, policy, expect):
    """Just above P(no_think) the model thinks, just below it does not."""
    for question in QUESTIONS:
        for factor, mode in ((0.99, "no_think"), (1.01, "think")):
            choice, _ = ask(client, question, {"x_think_threshold": factor * expect.probability(question)})
            assert choice["token_ids"] == expect.tokens(question, mode), (question, factor)


def test_decision_logprobs_do_not_depend_on_the_other_rows(client, policy, expect):
    """Requests that say nothing have the model's own first distribution, beside forced ones too."""
    cases = [(question, said) for question in QUESTIONS for said, _ in SAID]
    options = {"logprobs": True, "top_logprobs": 20}

    def first_logprobs(case):
        choice, _ = ask(client, *case, **options)
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        return {entry["token"]: entry["logprob"] for entry in first}

    with ThreadPoolExecutor(len(cases)) as pool:
        together = list(pool.map(first_logprobs, cases))
    for (question, said), found in zip(cases, together, strict=True):
        if said is None:
            words = ["Alright", "Okay"]
            expected = expect.logprobs(question, policy.tokenizer.convert_tokens_to_ids(words))
            assert [found[word] for word in words] == pytest.approx(expected, abs=1e-3)
        else:  # a forced token was certain in what was sampled from
            assert max(found.values()) == 0


@pytest.mark.parametrize("budget", [5, 12])
def test_a_budget_closes_a_thought_and_the_answer_follows(client, policy, expect, budget):
    whole = expect.tokens(HARD, "think")
    close = policy.template.close_id
    assert whole.index(close) > budget
    for mode in ({"x_think_mode": "think"}, {"x_think_threshold": 1}):
        said = mode | {"x_think_budget": budget}
        choice, usage = ask(client, HARD, said)
        tokens = choice["token_ids"]
        assert tokens[: budget + 1] == [*whole[:budget], close]
        assert choice["message"]["content"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == budget
        assert ask_streaming(client, HARD, said) == (
            choice["message"]["reasoning"],
            choice["message"]["content"],
            tokens,
        )
    generous, _ = ask(client, HARD, {"x_think_mode": "think", "x_think_budget": 90})
    assert generous["token_ids"] == whole


def test_sampled_thoughts_end_within_the_budget_some_of_them_before_it(client, policy):
    body = make_body(HARD, {"x_think_mode": "think", "x_think_budget": 20}, n=64, temperature=1.0, seed=7)
    choices = client.post("/v1/chat/completions", json=body).json()["choices"]
    lengths = [choice["token_ids"].index(policy.template.close_id) for choice in choices]
    assert max(lengths) == 20
    assert any(16 <= length < 20 for length in lengths)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"x_think_mode": "maybe"}, "x_think_mode = 'maybe'"),
        ({"x_think_threshold": 2}, "x_think_threshold = 2"),
        ({"x_think_budget": 0}, "x_think_budget = 0"),
        ({"x_think_modes": "think"}, "did you mean 'x_think_mode'"),
        ({"x_think_mode": "think", "x_think_threshold": 0.5}, "no effect"),
    ],
)
def test_bad_values_are_refused_and_the_server_lives(client, said, message):
    response = client.post("/v1/chat/completions", json=make_body(EASY, said))
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    # A stream has begun by then, so it has the error as its only event.
    response = client.post("/v1/chat/completions", json=make_body(EASY, said, stream=True))
    assert message in json.loads(response.text.splitlines()[0].removeprefix("data: "))["error"]["message"]
    assert ask(client, EASY)[0]["message"]["content"]


def test_a_prompt_without_a_decision_ends_at_once_and_the_log_says_why(client, policy, vllm_server):
    body = {"model": "tiny", "prompt": "47+8", "max_tokens": 9, "return_token_ids": True, "temperature": 0}
    plain = client.post("/v1/completions", json=body).json()["choices"][0]
    assert len(plain["token_ids"]) > 1
    said = {"vllm_xargs": {"x_think_mode": "no_think"}}
    ended = client.post("/v1/completions", json=body | said).json()["choices"][0]
    assert ended["token_ids"] == [policy.tokenizer.eos_token_id]
    assert ended["finish_reason"] == "stop"
    assert "does not end as the chat template's own prompts do" in vllm_server[1].read_text()


def test_completions_of_a_rendered_prompt_have_modes_too(client, policy, expect):
    prompt = list(encode_prompt(policy.tokenizer, policy.template, HARD))
    body = {"model": "tiny", "prompt": prompt, "max_tokens": MAX_TOKENS, "return_token_ids": True, "temperature": 0}
    for mode in ("think", "no_think"):
        answer = client.post("/v1/completions", json=body | {"vllm_xargs": {"x_think_mode": mode}}).json()
        assert answer["choices"][0]["token_ids"] == expect.tokens(HARD, mode)


def test_a_prefilled_answer_is_no_thinking(client):
    """The prompt is past the thought: what follows is the answer, whole and streaming."""
    turns = [{"role": "user", "content": EASY}, {"role": "assistant", "content": "\\boxed{"}]
    options = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False, "max_tokens": 2}
    choice, usage = ask(client, EASY, **options)
    assert choice["message"]["reasoning"] is None
    assert choice["message"]["content"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    assert ask_streaming(client, EASY, **options) == (None, choice["message"]["content"], choice["token_ids"])


def test_the_dial_that_was_taken_is_logged_with_what_is_not_checked(client, vllm_server):
    log = vllm_server[1].read_text()
    assert f"no_think where P(no_think) >= {THRESHOLD:g}" in log
    assert "Not checked" in log


# ---- the processors, without an engine ---------------------------------------------------------------------------


def make_config(names=(), *, speculative=None, **settings):
    model = SimpleNamespace(logits_processors=list(names), model="nowhere")
    return SimpleNamespace(
        model_config=model, additional_config={"adaptthink": settings}, speculative_config=speculative
    )


def make_params(said, ends=(294,)):
    return SimpleNamespace(extra_args=said, seed=None, all_stop_token_ids=set(ends))


@pytest.fixture
def known_template(monkeypatch, policy):
    from adaptthink.integrations.vllm.processor import Requests

    served = find_template(policy.tokenizer, ServerSettings())
    monkeypatch.setattr(Requests, "_read_template", lambda self: served)
    return served


class Slots:
    """What vLLM's second model runner shares with its processors, on the CPU."""

    def __init__(self, slots=8, length=256):
        self.prompt_len = SimpleNamespace(np=torch.zeros(slots, dtype=torch.int32).numpy())
        self.all_token_ids = SimpleNamespace(gpu=torch.zeros(slots, length, dtype=torch.int32))

    def context(self, running):
        """`running`: (slot, prompt, generated) of each row; the last token is fed, and not yet among all tokens."""
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

        for slot, prompt, generated in running:
            tokens = torch.tensor([*prompt, *generated])
            self.prompt_len.np[slot] = len(prompt)
            self.all_token_ids.gpu[slot, : len(tokens)] = tokens
        slots = torch.tensor([slot for slot, _, _ in running], dtype=torch.int32)
        lengths = torch.tensor([len(prompt) + len(generated) for _, prompt, generated in running])
        return LogitsContext(
            expanded_idx_mapping=slots,
            idx_mapping=slots,
            idx_mapping_np=slots.numpy(),
            expanded_local_pos=torch.zeros(len(running)),
            input_ids=torch.tensor([[*prompt, *generated][-1] for _, prompt, generated in running]),
            pos=lengths - 1,
            seq_lens_upper_bound_np=lengths.numpy(),
        )


@pytest.mark.parametrize("seed", range(4))
def test_both_model_runners_processors_do_the_same(known_template, policy, seed):
    """Random requests come and go; rows and slots differ, the logits of each request do not."""
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from adaptthink.integrations.vllm.processor import BatchProcessor, SlotProcessor, ThinkProcessor

    choose = random.Random(seed)
    states = Slots()
    first = ThinkProcessor(make_config(), torch.device("cpu"), False)
    second = ThinkProcessor(make_config(), states)
    assert (type(first), type(second)) == (BatchProcessor, SlotProcessor)
    template = policy.template
    prompt = list(encode_prompt(policy.tokenizer, template, HARD))
    sayings = [said for said, _ in SAID] + [{"x_think_mode": "think", "x_think_budget": 6}, {"x_think_budget": 4}]
    running, changed = [], 0  # (slot, prompt, generated); a request's row is its index
    for _ in range(60):
        removed = [index for index in range(len(running)) if choose.random() < 0.05]
        moved = []
        for index in reversed(removed):  # the last row takes the place of one that has gone
            last = running.pop()
            if index < len(running):
                running[index] = last
                moved.append((len(running), index, MoveDirectionality.UNIDIRECTIONAL))
        first.update_state(BatchUpdate(batch_size=len(running), removed=removed, added=[], moved=moved))
        free = [slot for slot in range(8) if slot not in [one[0] for one in running]]
        if free and choose.random() < 0.5:
            params, slot, generated = make_params(choose.choice(sayings)), choose.choice(free), []
            second.add_request(slot, params)
            running.append((slot, prompt, generated))
            added = [(len(running) - 1, params, prompt, generated)]
            first.update_state(BatchUpdate(batch_size=len(running), removed=[], added=added, moved=[]))
        if not running:
            continue
        torch.manual_seed(choose.randrange(10**6))
        logits = torch.randn(len(running), 300)
        one, other = first.apply(logits.clone()), second.apply(logits.clone(), states.context(running))
        assert torch.equal(one, other)
        changed += (one != logits).any().item()
        for row, (_, _, generated) in zip(one, running, strict=True):
            end = choose.choice([template.close_id, template.no_think_id, 16, 17])
            generated.append(row.argmax().item() if row.isinf().any() else end)
    assert changed > 10


def test_prompts_that_are_read_in_parts_wait_for_their_end(known_template, policy):
    from adaptthink.integrations.vllm.processor import SlotProcessor

    prompt = list(encode_prompt(policy.tokenizer, policy.template, HARD))
    states = Slots()
    processor = SlotProcessor(make_config(), states)
    assert processor.add_request(3, make_params({"x_think_mode": "no_think"}))
    context = states.context([(3, prompt, [])])
    context.seq_lens_upper_bound_np[0] = len(prompt) - 2
    logits = torch.zeros(1, 300)
    assert torch.equal(processor.apply(logits.clone(), context), logits)
    context.seq_lens_upper_bound_np[0] = len(prompt)
    assert processor.apply(logits.clone(), context).isfinite().nonzero().tolist() == [[0, policy.template.no_think_id]]
    # Resumed after it was thrown out, with tokens: nothing is decided again.
    assert processor.add_request(3, make_params({"x_think_mode": "no_think"}))
    assert torch.equal(processor.apply(logits.clone(), states.context([(3, prompt, [299, 16])])), logits)
    # A slot's next request has nothing of the one before.
    assert not processor.add_request(3, make_params(None))
    assert torch.equal(processor.apply(logits.clone(), states.context([(3, prompt, [])])), logits)


def test_speculative_decoding_is_refused(known_template, policy, caplog):
    from adaptthink.errors import UserError
    from adaptthink.integrations.vllm.processor import SlotProcessor, ThinkProcessor

    with pytest.raises(UserError, match="without speculative decoding"):
        SlotProcessor(make_config([ThinkProcessor], speculative="eagle"), Slots())
    states = Slots()
    processor = SlotProcessor(make_config(speculative="eagle"), states)  # found by the entry point
    prompt = list(encode_prompt(policy.tokenizer, policy.template, HARD))
    processor.add_request(2, make_params({"x_think_mode": "think"}))
    processor.add_request(5, make_params(None))
    context = states.context([(5, prompt, []), (5, prompt, []), (2, prompt, []), (2, prompt, [])])
    found = processor.apply(torch.zeros(4, 300), context)
    assert found[:2].eq(0).all()
    assert found[2:].isfinite().nonzero().tolist() == [[0, 294], [1, 294]]


def test_a_model_without_a_usable_template_ends_only_the_answers_that_say_something(monkeypatch):
    from adaptthink.errors import UserError
    from adaptthink.integrations.vllm.processor import Refused, Requests, ThinkProcessor

    def fail(self):
        raise UserError("the tokenizer has no chat template")

    monkeypatch.setattr(Requests, "_read_template", fail)
    with pytest.raises(UserError, match="no chat template"):
        Requests(make_config(["adaptthink.integrations.vllm.processor:ThinkProcessor"]))
    with pytest.raises(UserError, match="no chat template"):
        Requests(make_config([ThinkProcessor]))
    requests = Requests(make_config(["other:Processor"], mode="auto"))
    assert requests.begin(make_params(None), [1, 2]) is None
    assert requests.begin(make_params({"x_think_mode": "think"}), [1, 2]) == Refused(294)
    assert requests.begin(make_params({"x_think_mode": "think"}, ends=()), [1, 2]) == Refused(None)


def test_a_servers_mode_is_for_requests_that_say_nothing(known_template, policy):
    from adaptthink.integrations.vllm.processor import Requests

    requests = Requests(make_config(mode="no_think"))
    prompt = encode_prompt(policy.tokenizer, policy.template, HARD)
    assert requests.begin(make_params(None), prompt).mode == "no_think"
    assert requests.begin(make_params({"x_think_mode": "think"}), prompt).mode == "think"
    assert requests.begin(make_params(None), prompt[:-1]) is None
    assert Requests(make_config()).begin(make_params(None), prompt) is None


# ---- the parser, without a server --------------------------------------------------------------------------------


def test_the_parser_is_registered_and_refuses_a_tokenizer_without_markers(policy):
    from vllm.reasoning import ReasoningParserManager

    from adaptthink.integrations.vllm.reasoning import AdaptThinkReasoningParser

    assert ReasoningParserManager.get_reasoning_parser("adaptthink") is AdaptThinkReasoningParser
    with pytest.raises(ValueError, match="none of the markers"):
        AdaptThinkReasoningParser(SimpleNamespace(get_vocab=lambda: {"<a>": 1}))
    parser = AdaptThinkReasoningParser(policy.tokenizer)
    opened = list(encode_prompt(policy.tokenizer, policy.template, EASY))
    close = policy.template.close_id
    assert not parser.is_reasoning_end(opened)
    assert parser.is_reasoning_end([*opened, close])
    assert parser.is_reasoning_end([*opened, 16, close, 17])
    assert not parser.is_reasoning_end([close, *opened])
    assert parser.is_reasoning_end_streaming([16, close], [close])
    assert parser.extract_content_ids([16, close, 17, 18]) == [17, 18]
    request = parser.adjust_request(SimpleNamespace(skip_special_tokens=True))
    assert request.skip_special_tokens is False  # the embedded tokenizer counts its markers among the special tokens


@pytest.mark.parametrize(
    ("tokens", "counted"), [([16, 17, 299, 18], 2), ([299, 18], 0), ([298, 16, 299, 18], 1), ([16, 17], 2), ([], 0)]
)
def test_reasoning_tokens(policy, tokens, counted):
    from adaptthink.integrations.vllm.reasoning import AdaptThinkReasoningParser

    parser = AdaptThinkReasoningParser(policy.tokenizer)
    parser.adjust_initial_state_from_prompt(encode_prompt(policy.tokenizer, policy.template, EASY))
    assert parser.count_reasoning_tokens(tokens) == counted
