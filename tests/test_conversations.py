"""Problems that are conversations: every message is sent, or the row is refused; wherever problems are read."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from chat_server import serving, stream
from pyarrow import parquet
from test_modes import CHATML, build

import adaptthink as at
from adaptthink.errors import UserError
from adaptthink.models.context import check_context
from adaptthink.modes import Message, Mode, probe
from adaptthink.problems import Problem, encode_problem, make_problem, make_problem_id
from adaptthink.problems.prompts import make_prompts
from adaptthink.problems.traces import make_trace_of
from adaptthink.training.data import TrainingProblems, compute_problems_digest

SYSTEM = {"role": "system", "content": "Base 3."}
QUESTION = {"role": "user", "content": "1+2=?"}
TURNS = [SYSTEM, {"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "2"}, QUESTION]
SYSTEM_AND_QUESTION = [SYSTEM, QUESTION]

QWEN = CHATML.replace("ENDING", "<think>\n")
NO_SYSTEM = (  # Gemma's, with an opened thought
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n<think>\n{% endif %}"
)
FOLDED = (  # as Mistral's: the system message stands in the first turn of the user
    "{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] "
    "{% if loop.first %}{{ first }}{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
)
EXPECTED = [
    (
        QWEN,
        TURNS,
        "<|im_start|>system\nBase 3.<|im_end|>\n<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n1+2=?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ),
    (
        QWEN,
        SYSTEM_AND_QUESTION,
        "<|im_start|>system\nBase 3.<|im_end|>\n<|im_start|>user\n1+2=?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ),
    (QWEN, "1+2=?", "<|im_start|>user\n1+2=?<|im_end|>\n<|im_start|>assistant\n<think>\n"),
    (
        NO_SYSTEM,
        TURNS[1:],
        "<start_of_turn>user\n1+1=?<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n"
        "<start_of_turn>user\n1+2=?<end_of_turn>\n<start_of_turn>model\n<think>\n",
    ),
    (FOLDED, TURNS, "[INST] Base 3.\n\n1+1=? [/INST] 2</s>[INST] 1+2=? [/INST]<think>\n"),
    (FOLDED, "1+2=?", "[INST] 1+2=? [/INST]<think>\n"),
]


def write_rows(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_verl_row(messages):
    return {"data_source": "s", "prompt": messages, "reward_model": {"style": "rule", "ground_truth": "10"}}


# ---- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "prompt", "expected"), EXPECTED)
@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_every_message_is_in_the_prompt_as_the_template_writes_it(tmp_path, source, prompt, expected, name):
    tokenizer = build(source)
    template = probe(tokenizer)
    path = write_rows(tmp_path / name, [{"prompt": prompt, "answer": "10"}])
    [problem] = at.load_problems(path)
    ids = encode_problem(tokenizer, template, problem)
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode(ids + template.prefix_ids(Mode.THINK)) == expected + "Alright"
    assert tokenizer.decode(ids + template.prefix_ids(Mode.NO_THINK)) == expected + "</think>"


def test_the_forms_in_which_rows_hold_a_conversation_are_one_problem(tmp_path):
    sharegpt = [
        {"from": "human", "value": "1+1=?"},
        {"from": "gpt", "value": "2"},
        {"from": "human", "value": "1+2=?"},
    ]
    parts = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]
    no_calls = [turn | {"tool_calls": None} for turn in TURNS]
    rows = [
        {"prompt": TURNS, "answer": "10"},
        {"messages": TURNS, "answer": "10", "tools": []},
        {"conversations": sharegpt, "system": "Base 3.", "answer": "10"},
        {"prompt": parts, "answer": "10"},
        {"prompt": no_calls, "answer": "10"},
    ]
    problems = [at.load_problems([row])[0] for row in rows]
    problems.append(next(make_prompts([rows[0] | {"answer": None}], at.problems.files.Fields())))
    assert {problem.messages for problem in problems} == {tuple(Message(**turn) for turn in TURNS)}
    path = write_rows(tmp_path / "verl.parquet", [make_verl_row(TURNS)])
    [verl] = at.load_problems(path, fields="answer=reward_model.ground_truth")
    assert verl.messages == problems[0].messages


def test_an_empty_system_message_is_none():
    [one] = at.load_problems([{"prompt": [{"role": "system", "content": " "}, QUESTION], "answer": "3"}])
    assert one == make_problem("1+2=?", "3")


def test_a_single_question_is_what_it_was():
    """Its id is the hash that stores have; fields beside it that are no message of a conversation change nothing."""
    [one] = at.load_problems([{"prompt": "1+2=?", "answer": "3", "system": "linux", "tools": ["saw"]}])
    assert (one.id, one.context) == ("924b8bb6ec7f6242", ())
    [listed] = at.load_problems([{"prompt": [QUESTION], "answer": "3"}])
    assert listed == one
    digest = compute_problems_digest(TrainingProblems([one], []))
    assert digest == "e4500447c42904d7"
    other = replace(one, context=(Message("system", "Base 3."),))
    assert compute_problems_digest(TrainingProblems([other], [])) != digest


def test_a_chat_endpoint_gets_the_messages_as_they_are(monkeypatch, tmp_path, run):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "p.jsonl", [{"prompt": TURNS, "answer": "10"}, {"prompt": "1+2=?", "answer": "3"}])
    for server in serving(monkeypatch):
        server.default = stream({"content": "\\boxed{10}"})
        status, _, err = run(
            "evaluate", "m", "--chat", server.url, "--problems", "p.jsonl", "--output", "e",
            "--max-think-tokens", "9", "--max-no-think-tokens", "9",
        )  # fmt: skip
        assert (status, err) == (0, "")
        sent = sorted((call.body["messages"] for call in server.calls), key=len)
        assert sent == [[QUESTION], TURNS]


# ---- what is refused ------------------------------------------------------------------------------------------------

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
REFUSED = {
    "ends in an answer": (TURNS[:3], "ends in a message of role 'assistant'; the last one must be the user's question"),
    "unknown role": (
        [{"role": "critic", "content": "a"}, QUESTION],
        "has a message of role 'critic'; known are system, user and assistant",
    ),
    "role of a tool": (
        [*TURNS[:3], {"role": "tool", "content": "3"}, QUESTION],
        "has a message of role 'tool'; known are system, user and assistant",
    ),
    "no role": ([{"content": "a"}, QUESTION], "has a message of role None; known are system, user and assistant"),
    "tool calls": (
        [TURNS[1], CALL, QUESTION],
        "has a message that calls tools, which are not supported; leave the row out",
    ),
    "image": (
        [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "text": None}]}],
        "has a message whose parts are not all text; images and files are not supported",
    ),
    "number": ([{"role": "user", "content": 3}], "has a message whose content is of type int; text is needed"),
    "two system messages": (
        [SYSTEM, SYSTEM, QUESTION],
        "has a system message after its first; put all of it into the first",
    ),
    "late system message": (
        [TURNS[1], SYSTEM, QUESTION],
        "has a system message after its first; put all of it into the first",
    ),
    "empty turn": (
        [TURNS[1], {"role": "assistant", "content": ""}, QUESTION],
        "has an empty message of role 'assistant'; fill it, or leave the row out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_by_file_and_row(tmp_path, case):
    messages, complaint = REFUSED[case]
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "1+1=?", "answer": "2"}, {"prompt": messages, "answer": "3"}])
    with pytest.raises(UserError) as caught:
        at.load_problems(path)
    assert str(caught.value) == f"{path}, line 2: 'prompt' {complaint}"
    with pytest.raises(UserError) as caught:
        make_trace_of({"prompt": messages, "thinking": "a", "answer": "3"}, 4)
    assert str(caught.value) == f"trace 4: 'prompt' {complaint}"


@pytest.mark.parametrize("case", REFUSED)
def test_trl_rows_are_refused_alike(case):
    read_problem = pytest.importorskip("adaptthink.integrations.trl").read_problem
    messages, complaint = REFUSED[case]
    with pytest.raises(UserError) as caught:
        read_problem({"prompt": messages, "answer": "3"})
    assert str(caught.value).startswith("column 'prompt' holds [{")
    assert str(caught.value).endswith(f"('prompt' {complaint})")


@pytest.mark.parametrize(
    ("beside", "complaint"),
    [
        ({"tools": [{"name": "add"}]}, "'tools' belongs to the prompt, and only text is supported; leave the row out"),
        ({"images": ["a.png"]}, "'images' belongs to the prompt, and only text is supported; leave the row out"),
        ({"system": "Base 4."}, "'messages' has a system message after its first; put all of it into the first"),
    ],
)
def test_what_belongs_to_a_conversation_and_stands_beside_it(beside, complaint):
    with pytest.raises(UserError) as caught:
        at.load_problems([{"messages": TURNS, "answer": "10"} | beside])
    assert str(caught.value) == f"problem 1: {complaint}"


def test_a_problem_made_by_hand_is_checked_too():
    two = (Message("system", "a"), Message("system", "b"))
    complaint = "'context' has a system message after its first; put all of it into the first"
    with pytest.raises(UserError) as caught:
        make_problem("1+2=?", "3", context=two)
    assert str(caught.value) == f"problem: {complaint}"
    by_hand = Problem(make_problem_id("1+2=?", "3", "", two), "1+2=?", "3", context=two)
    with pytest.raises(UserError) as caught:
        at.load_problems([by_hand])
    assert str(caught.value) == f"problem 1: {complaint}"


@pytest.mark.parametrize("context", [None, 4096])
def test_a_model_without_a_system_role_is_refused_before_the_work(context):
    """With the problem, its file and its question; conversations that its template writes pass."""
    tokenizer = build(NO_SYSTEM)
    template = probe(tokenizer)
    plain, turns, system = (
        make_problem("1+2=?", "10", source="p.jsonl", context=tuple(Message(**turn) for turn in before))
        for before in ([], TURNS[1:3], [SYSTEM])
    )
    assert check_context(context, tokenizer, template, [plain, turns], {}) is None
    with pytest.raises(UserError) as caught:
        check_context(context, tokenizer, template, [plain, turns, system], {})
    assert str(caught.value).startswith(
        f"problem {system.id} of p.jsonl ('1+2=?'): the chat template fails on messages of system, user (System role "
        "not supported); needed: a template that renders these"
    )


def test_a_score_names_the_row_that_the_template_refuses(random_policy):
    policy = replace(random_policy, tokenizer=build(NO_SYSTEM))
    policy = replace(policy, template=probe(policy.tokenizer))
    with pytest.raises(UserError, match=r"^row 2 \('1\+2=\?'\): the chat template fails on messages of system, user"):
        list(at.score(policy, [{"prompt": SYSTEM_AND_QUESTION[1:]}, {"prompt": SYSTEM_AND_QUESTION}]))
