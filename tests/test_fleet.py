"""Many servers as one engine, each misbehaving in its own way: nothing is lost, nothing comes twice."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from completions_server import EOS, VOCABULARY, FakeServer, ModelServer, running
from waiting import WAIT_SECONDS, wait_until

from adaptthink import api
from adaptthink.cli import jobs
from adaptthink.config.resolve import check
from adaptthink.config.schema import EvaluateConfig, PresampleConfig, TrainConfig
from adaptthink.engines import fleet as fleet_module
from adaptthink.engines import openai
from adaptthink.engines.base import Request, ScriptedEngine
from adaptthink.engines.fleet import Fleet, Job, Server, Work, open_fleet
from adaptthink.engines.native import NativeEngine
from adaptthink.engines.openai import OpenAIEngine, UnansweredError, make_probe
from adaptthink.engines.rounds import ContinuationRequest
from adaptthink.errors import UserError
from adaptthink.models.loading import TINY, load_configured, load_policy
from adaptthink.sampling.engine import make_engine
from adaptthink.training.data import find_problems

PROMPT = (5, 9, 17)
TOTAL = math.log(sum(math.exp(-i / 10) for i in range(VOCABULARY)))
PROBE = make_probe(ScriptedEngine(lambda *_: [], next_token=lambda _, token: -token / 10 - TOTAL), PROMPT, (1, 40))
ROWS = 4


class Seeded(FakeServer):
    """Its responses follow from the call's seed; generation calls can be delayed, refused and counted."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bad = lambda call: None  # what a generation call gets instead of an answer
        self.generated, self.health_checks = [], 0

    def meets(self, path, call):
        if path.endswith("/models"):
            self.health_checks += 1
        return self.bad(call) if call and "logprob_token_ids" not in call else None

    def complete(self, call):
        answer = super().complete(call)
        if "logprob_token_ids" not in call:
            self.generated.append(call["seed"])
            [choice] = answer["choices"]
            choice["token_ids"] = [1 + call["seed"] % 97, 1 + call["seed"] % 89]
            choice["logprobs"]["token_logprobs"] = [-1.0, -2.0]
        return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fleet_module, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(fleet_module, "LONGEST_BACKOFF", 0.05)
    monkeypatch.setattr(fleet_module, "IDLE_SECONDS", 0.01)
    monkeypatch.delenv(openai.KEY_VARIABLE, raising=False)


@pytest.fixture
def servers():
    with running(Seeded()) as one, running(Seeded()) as two, running(Seeded()) as three:
        yield [one, two, three]


def make(servers, messages=None, **options):
    urls = [getattr(server, "url", server) for server in servers]
    on_message = (lambda text: None) if messages is None else messages.append
    options |= {"name": "tiny", "max_concurrent_sequences": ROWS, "probe": PROBE}
    return open_fleet(urls, [EOS], on_message=on_message, **options)


def requests(count=60):
    return [Request(PROMPT, 2, stream) for stream in range(count)]


def stream(fleet, requested):
    """Completions by index; fails if one comes twice."""
    done = {}

    def finish(index, completion):
        assert index not in done
        done[index] = completion

    fleet.stream(iter(requested), temperature=1.0, top_p=1.0, seed=3, on_finish=finish)
    return done


@pytest.fixture
def expected():
    """What an undisturbed server answers, alone and in its own order."""
    with running(Seeded()) as server:
        engine = OpenAIEngine(server.url, [EOS], model="tiny", capacity_tokens=64, max_concurrent_sequences=1)
        return dict(enumerate(engine.generate(requests(), temperature=1.0, seed=3)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_responses_do_not_depend_on_who_answers(servers, expected, count):
    fleet = make(servers[:count])
    assert stream(fleet, requests()) == expected
    assert fleet.generate(requests(), temperature=1.0, seed=3) == list(expected.values())
    assert sum(server.responses for server in fleet.servers) == 120
    assert all(server.responses >= 20 for server in fleet.servers)
    assert sum(server.tokens for server in fleet.servers) == 240
    assert all(0 < server.max_together <= ROWS for server in servers[:count])


def test_requests_are_taken_only_as_slots_become_free(servers):
    taken, ended, ahead = [], [], []

    def requested():
        for request in requests(100):
            taken.append(request)
            ahead.append(len(taken) - len(ended))
            yield request

    make(servers).stream(requested(), temperature=1.0, top_p=1.0, seed=3, on_finish=lambda *one: ended.append(one))
    assert len(ended) == 100
    assert max(ahead) <= 3 * ROWS


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [(500, {}), (503, {}), (429, {}), (429, {"Retry-After": "0"}), (401, {}), (404, {}), "drop", "<html>", "{}"],
)
def test_what_a_server_fails_on_goes_to_others_and_it_comes_back(servers, expected, fault):
    left = [5]

    def bad(call):
        left[0] -= 1
        return fault if left[0] >= 0 else None

    servers[0].bad, messages = bad, []
    fleet = make(servers, messages)

    def has_failed():  # on a busy machine the others may have answered all before it is asked
        assert stream(fleet, requests()) == expected
        return fleet.servers[0].faults

    wait_until(has_failed)
    assert fleet.servers[0].faults <= 5
    assert fleet.servers[1].faults == fleet.servers[2].faults == 0
    assert messages[0].startswith(f"{servers[0].url} is unhealthy: ")

    def is_back():
        stream(fleet, requests())
        return f"{servers[0].url} is healthy again" in messages and fleet.servers[0].responses > 0

    wait_until(is_back)
    assert fleet.servers[0].unhealthy_seconds > 0


@pytest.fixture
def stopped(monkeypatch):
    """Time stands still for the fleet."""
    monkeypatch.setattr(fleet_module, "time", SimpleNamespace(monotonic=lambda: 50.0))


def test_a_server_gets_nothing_until_its_retry_after(servers, stopped):
    servers[0].bad = lambda call: (429, {"Retry-After": "77"})
    fleet = make(servers[:2])
    health_checks = servers[0].health_checks
    assert len(stream(fleet, requests())) == 60
    assert fleet.servers[0].retry_at == 50 + 77
    assert servers[0].health_checks == health_checks


def test_the_backoff_grows_until_a_request_is_answered(stopped):
    fleet, server = Fleet(["http://one"], [EOS], "tiny", 1, PROBE, lambda text: None), Server("http://one")
    backoffs = []
    for _ in range(5):
        fleet._mark_unhealthy(server, UserError("no"))
        backoffs.append(server.retry_at - 50)
    for backoff, full in zip(backoffs, [0.01, 0.02, 0.04, 0.05, 0.05], strict=True):
        assert full / 2 - 1e-9 <= backoff <= full + 1e-9
    fleet._mark_unhealthy(server, UnansweredError("busy", 9.0))
    assert server.retry_at == 50 + 9


def test_a_server_that_hangs_holds_nothing_up(servers, expected):
    never = threading.Event()
    servers[0].bad = lambda call: never
    fleet = make(servers)
    assert stream(fleet, requests()) == expected
    assert fleet.servers[0].responses == 0
    assert fleet.generate(requests(), temperature=1.0, seed=3) == list(expected.values())
    never.set()


def test_a_slow_server_takes_less(servers, expected):
    """It answers only when the others have generated 24 more, or all is done."""
    done = threading.Event()

    def generated():
        return sum(len(server.generated) for server in servers[1:])

    class Slowly(threading.Event):
        def wait(self, timeout=None):
            before = generated()
            wait_until(lambda: generated() >= before + 24 or done.is_set())

    servers[0].bad = lambda call: Slowly()
    fleet = make(servers)
    assert stream(fleet, requests()) == expected
    done.set()
    assert fleet.servers[0].responses < min(server.responses for server in fleet.servers[1:])
    assert all(server.faults == 0 for server in fleet.servers)


def test_a_server_that_dies_midway_loses_nothing(expected):
    with running(Seeded()) as stays, running(Seeded()) as goes:
        fleet = make([goes, stays])

        def die(call):
            if len(goes.generated) < 7:
                return None
            goes.socket.close()
            return "drop"

        goes.bad = die
        assert stream(fleet, requests()) == expected
        assert fleet.servers[0].faults >= 1
        assert sum(server.responses for server in fleet.servers) == 60


def test_when_all_are_dead_one_line_reports_it_and_completed_work_was_handed_on(servers, monkeypatch):
    monkeypatch.setattr(fleet_module, "TIMEOUT_SECONDS", 0.2)
    done = []
    for server in servers:
        server.bad = lambda call, server=server: (503, {}) if len(server.generated) > 5 else None
    fleet = make(servers)
    with pytest.raises(UserError) as caught:
        fleet.stream(requests(), temperature=1.0, top_p=1.0, seed=3, on_finish=lambda *one: done.append(one))
    assert "none of 3 servers has answered" in str(caught.value)
    assert "answered 503" in str(caught.value)
    assert "completed work is kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert 18 <= len(done) < 60


def test_the_timeout_counts_unhealthy_time_and_not_generation(monkeypatch):
    """By a clock of the test's own: 1000 s of thinking, a broken connection, then nothing for 600 s; or an answer."""
    now = [50.0]
    monkeypatch.setattr(fleet_module.time, "monotonic", lambda: now[0])
    fault = UserError("broken")

    async def see():
        fleet = Fleet(["one", "two"], [EOS], "tiny", 1, PROBE, lambda text: None)
        work, (one, two) = Work([], lambda *_: None, 2), fleet.servers
        fleet._note_answer()

        def fail_after(seconds, server):
            now[0] += seconds
            server.engine = None
            fleet._mark_unhealthy(server, fault)
            fleet._check_timeout(work)
            return work.over.done()

        assert not fail_after(1000, one)
        assert not fail_after(0, two)
        assert not fail_after(599, one)
        fleet._note_answer()
        assert not fail_after(599, one)
        assert fail_after(2, two)
        with pytest.raises(UserError, match=r"none of 2 servers has answered, and each was unhealthy for 601 s"):
            await work.over

    asyncio.run(see())


@pytest.mark.parametrize("count", [1, 3])
def test_a_request_that_no_server_survives_comes_last_and_fails(servers, count):
    """It is not tried for ever, and an error comes only when all others are done."""
    poison = [5, 17]  # indices of the requests, marked by the length of their context
    tried, done = [], []

    def bad(call):
        if len(call["prompt"]) == len(PROMPT):
            return None
        tried.append(len(call["prompt"]))
        return (500, {}) if len(tried) < 200 else None  # without an end to it, the call would succeed in time

    for server in servers:
        server.bad = bad
    requested = [
        Request(PROMPT * (3 if request.stream in poison else 1), request.max_tokens, request.stream)
        for request in requests()
    ]
    with pytest.raises(UserError) as caught:
        make(servers[:count]).stream(
            requested, temperature=1.0, top_p=1.0, seed=3, on_finish=lambda index, _: done.append(index)
        )
    assert str(caught.value).startswith(
        f"a request with a context of 9 tokens and max_tokens 2 failed {3 * (1 + count)} times on servers that were "
        "healthy before, and so did 1 more (http"
    )
    assert "answered 500" in str(caught.value)
    assert "lower max_think_tokens" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(done) == [index for index in range(60) if index not in poison]
    assert len(tried) == 2 * 3 * (1 + count)


def test_a_request_that_servers_were_too_busy_for_does_not_fail(servers, expected):
    met = []

    def busy(call):
        met.append(call["seed"])
        return (429, {}) if met.count(met[0]) <= 20 and call["seed"] == met[0] else None

    async def see():
        work = Work([ContinuationRequest(PROMPT, 1, 1.0)], lambda *_: None, 1)
        one = Server("one")
        for _ in range(20):
            work.give_back(work.take(one), one, UnansweredError("answered 429", busy=True))
        assert not work.over.done()
        for _ in range(6):
            assert not work.over.done()
            work.give_back(work.take(one), one, UnansweredError("answered 500"))
        with pytest.raises(UserError, match="failed 6 times"):
            await work.over

    asyncio.run(see())
    servers[0].bad = busy
    assert stream(make(servers[:1]), requests()) == expected
    assert met.count(met[0]) == 21


def test_a_call_that_is_at_fault_itself_ends_it(servers):
    servers[1].bad = lambda call: (400, {})
    with pytest.raises(UserError, match=r"answered 400: .*as requested"):
        stream(make(servers), requests())


def test_a_response_that_a_server_broke_off_is_generated_again(servers, expected, monkeypatch):
    complete = servers[0].complete

    def cut(call):
        answer = complete(call)
        if "logprob_token_ids" not in call and len(servers[0].generated) < 4:
            [choice] = answer["choices"]
            del choice["token_ids"][1:], choice["logprobs"]["token_logprobs"][1:]
            choice["finish_reason"] = "abort"
        return answer

    servers[0].complete = cut
    fleet = make(servers)
    assert stream(fleet, requests()) == expected
    assert fleet.servers[0].faults >= 1


def test_a_server_that_comes_back_with_another_model_is_not_used(servers):
    def restart(call):
        if len(servers[0].generated) < 5:
            return None
        servers[0].complete = lambda call: FakeServer.complete(servers[0], call | {"temperature": 30.0})
        return "drop"

    servers[0].bad = restart
    fleet = make(servers)
    done = stream(fleet, requests(400))
    assert len(done) == 400
    assert fleet.servers[0].engine is None
    assert "another model" in fleet.servers[0].last_fault
    assert fleet.servers[0].responses <= 5 + ROWS


def test_a_server_that_is_dead_at_the_start_is_taken_in_when_it_comes(servers, expected):
    port = servers[0].server_port
    del servers[0]
    with running(Seeded()) as gone:
        port = gone.server_port
    messages = []
    fleet = make([f"http://127.0.0.1:{port}", *servers], messages)
    assert [server.engine is None for server in fleet.servers] == [True, False, False]
    assert messages[0].startswith(f"http://127.0.0.1:{port} is unhealthy: no answer")
    assert stream(fleet, requests()) == expected
    with running(Seeded(port=port)):
        for _ in range(100):  # on a busy machine the others may be done before it is tried again
            stream(fleet, requests(400))
            if fleet.servers[0].responses:
                return
    pytest.fail("the server that came is not used")


def test_nobody_at_any_endpoint_is_reported_at_once():
    with running(Seeded()) as one, running(Seeded()) as two:
        urls = [one.url, two.url]
    with pytest.raises(UserError, match="is the server running there"):
        make(urls)


def test_a_server_that_accepts_calls_but_is_silent_is_reported(servers, monkeypatch):
    monkeypatch.setattr(fleet_module, "CHECK_SECONDS", 0.5)
    never = threading.Event()
    servers[0].meets = lambda path, call: never
    with pytest.raises(UserError, match=f"{servers[0].url} accepts calls but has not answered within 0.5 s"):
        make(servers[:1])
    never.set()


def test_a_wrong_model_at_the_start_is_reported_at_once(servers):
    servers[1].processed = False
    with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
        make(servers)


def test_an_endpoint_named_twice_is_one_server(servers):
    assert len(make([servers[0].url, servers[0].url + "/v1/"]).servers) == 1


def test_a_prompt_that_no_server_holds_is_reported(servers):
    servers[1].models = [{"id": "tiny", "max_model_len": 4}]
    with pytest.raises(UserError, match="lower max_think_tokens"):
        stream(make(servers), requests())


@pytest.mark.parametrize("first", [0, 59])
def test_an_error_of_who_takes_the_responses_ends_the_call(servers, first):
    done = []

    def full(index, completion):
        done.append(index)
        if len(done) > first:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make(servers).stream(requests(), temperature=1.0, top_p=1.0, seed=3, on_finish=full)


def test_training_on_several_servers_is_refused(servers, random_model):
    with pytest.raises(UserError, match="train with one --endpoint"):
        make(servers).load_weights(random_model)


def test_late_requests_go_to_one_server_more_each_time():
    async def see():
        one, two, three = (Server(name) for name in "abc")
        work = Work([ContinuationRequest(PROMPT, 1, 1.0)], lambda *_: None, 3)
        job = work.take(one)
        assert isinstance(job, Job)
        assert work.take(two) is None  # nothing ended yet: nobody knows what is late
        work.longest = 1.0
        assert work.take(two) is None
        job.started -= 2.1
        assert work.take(one) is None
        assert work.take(two) is job
        assert work.take(three) is None
        job.started -= 2.1
        assert work.take(three) is job
        work.give_back(job, three, UserError("no"))
        work.finish(job, None)
        work.finish(job, None)
        assert not work.running

    asyncio.run(see())


def test_the_last_answer_ends_the_call_though_no_server_is_left():
    """Each of two servers has failed on something, and what the first one still had arrives."""

    async def see():
        one, two, done = Server("one"), Server("two"), []
        work = Work([ContinuationRequest(PROMPT, 1, 1.0)] * 2, lambda index, _: done.append(index), 2)
        first = work.take(one)
        work.finish(first, None)
        assert not work.over.done()
        last = work.take(one)
        work.longest, last.started = 1.0, last.started - 2.1
        assert work.take(two) is last
        work.give_back(last, two, UserError("no"))
        assert not work.over.done()
        work.finish(last, None)
        assert work.over.done()
        assert done == [0, 1]

    asyncio.run(see())


# ---- presample over servers that have the embedded model ------------------------------------------------------------

SIZE = {"problems_per_level": 3, "reference_samples": 2, "max_think_tokens": 24, "max_no_think_tokens": 8}
SIZE |= {"max_concurrent_sequences": 3}


@pytest.fixture(scope="module")
def native():
    policy = load_policy("tiny")
    return NativeEngine(policy.model, policy.eos_ids)


@pytest.fixture
def pair(native):
    with running(ModelServer(native)) as one, running(ModelServer(native)) as two:
        yield [one, two]


def rows(path):
    """The store's header, and its rows in an order of their own; fails if a problem is there twice."""
    header, *lines = path.read_text().splitlines()
    found = sorted(lines)
    assert len({json.loads(line)["id"] for line in found}) == len(found)
    return header, found


def presample(endpoints, path, **values):
    config = check(PresampleConfig, SIZE | {"endpoint": [server.url for server in endpoints]} | values)
    return jobs.presample_job(config, path)


def test_a_store_is_the_same_from_one_server_and_from_two(pair, tmp_path):
    alone = presample(pair[:1], tmp_path / "one.jsonl")
    result = presample(pair, tmp_path / "two.jsonl")
    assert rows(tmp_path / "one.jsonl") == rows(tmp_path / "two.jsonl")
    assert len(rows(tmp_path / "two.jsonl")[1]) == result["problems"] == 15
    assert result["mean_reward"] == pytest.approx(alone["mean_reward"])
    assert [server["url"] for server in result["servers"]] == [server.url for server in pair]
    assert sum(server["responses"] for server in result["servers"]) == 30
    assert all(server["responses"] > 0 for server in result["servers"])


def test_the_stream_is_graded_as_the_chunks_are(pair, tmp_path):
    """The engine for one server goes chunk by chunk; the same store comes of it, in the problems' order."""
    config = check(TrainConfig, SIZE | {"endpoint": pair[0].url})
    policy = load_configured(config)
    problems = find_problems(config.problems, None, config).problems
    store = tmp_path / "chunks.jsonl"
    api.presample(policy, problems, output=store, engine=make_engine(policy, config), config=config)
    presample(pair, tmp_path / "stream.jsonl")
    assert rows(tmp_path / "stream.jsonl") == rows(tmp_path / "chunks.jsonl")


@pytest.mark.slow
def test_killed_midway_and_repeated_the_store_is_as_if_nothing_had_happened(pair, tmp_path):
    presample(pair[:1], tmp_path / "whole.jsonl")
    path = tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "adaptthink", "presample", "--output", str(path)]
    for server in pair:
        command += ["--endpoint", server.url]
    for name, value in SIZE.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    held = threading.Event()
    for server in pair:  # all but the first calls wait, so that the process is killed in the middle
        complete, calls = server.complete, []

        def late(call, complete=complete, calls=calls):
            calls.append(call)
            if len(calls) > 10:
                held.wait(WAIT_SECONDS)
            return complete(call)

        server.complete = late
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: path.is_file() and path.read_bytes().count(b"\n") >= 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    held.set()
    done = path.read_bytes().count(b"\n") - 1
    assert 3 <= done < 15
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "120"})
    assert ran.returncode == 0, ran.stderr
    assert rows(path) == rows(tmp_path / "whole.jsonl")
    assert pair[1].url in ran.stdout
    assert "failed" in ran.stdout


def evaluate(pair, folder):
    size = {"problems_per_level": 1, "max_think_tokens": 24, "max_no_think_tokens": 8, "max_concurrent_sequences": 3}
    config = check(EvaluateConfig, size | {"endpoint": [server.url for server in pair]})
    return jobs.evaluate_job(config, ("auto", "no_think"), folder)


def test_an_evaluation_reports_what_each_server_did(pair, tmp_path, capfd):
    result = evaluate(pair, tmp_path / "e")
    assert [server["url"] for server in result["servers"]] == [server.url for server in pair]
    assert sum(server["responses"] for server in result["servers"]) >= 10
    assert "servers" not in json.loads((tmp_path / "e" / "summary.json").read_text())  # of this call, not of the folder
    assert "failed" in capfd.readouterr().out


def test_an_evaluation_that_fails_reports_what_each_server_did(pair, tmp_path, capfd):
    for server in pair:  # no generation call is answered
        server.meets = lambda path, call: (400, {}) if call and "logprob_token_ids" not in call else None
    with pytest.raises(UserError, match="answered 400"):
        evaluate(pair, tmp_path / "e")
    assert "failed" in capfd.readouterr().out


def test_the_embedded_model_is_not_taken_for_another(pair, random_model, tmp_path):
    pair[1].engine = NativeEngine(random_model, [EOS])
    with pytest.raises(UserError, match=f"the server at {pair[1].url} has another model than --model"):
        presample(pair, tmp_path / "r.jsonl")
    assert not (tmp_path / "r.jsonl").exists()
    assert TINY.is_dir()
