"""The workers behind symbolic grading: what is lost when one overruns, eats memory or dies, and where they may be used.

Most tests put a stand-in for latex2sympy and math-verify on the path of the workers: it hangs, eats memory, dies or
fails on demand.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from waiting import WAIT_SECONDS, wait_until

from adaptthink import grading
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, Limits, Submission, Verdict, find_parsable, grade, grade_all
from adaptthink.grading import pool as pools

BRIEF = 0.2  # seconds, for what is to be stopped
SOURCES = str(Path(grading.__file__).parents[2])

STAND_IN = '''
"""A latex2sympy that does what the formula says."""
import os, re, signal, sys, time
from pathlib import Path
import psutil, sympy

LOG = Path(__file__).parents[1] / "log"

class NormalizationConfig:
    def __init__(self, **settings):
        pass

class ConversionConfig(NormalizationConfig):
    pass

sys.modules["latex2sympy2_extended.latex2sympy2"] = sys.modules[__name__]

def latex2sympy(text, **settings):
    text = re.sub(r"[^a-z]*mathit.(.).", r"\\1", text)  # letters that mean something to the parser
    name = text.partition("+")[0]
    calls = LOG.read_text().split().count(name) if LOG.exists() else 0
    with LOG.with_name(str(os.getpid())).open("a") as own:
        own.write(".")
    with LOG.open("a") as log:
        log.write(name + "\\n")
    if name == "hang" or (name == "flaky" and not calls):
        time.sleep(10**6)
    while name == "busy":
        pass
    if name == "late":
        time.sleep(0.3)
    if name == "die" or (name == "shot" and not calls):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "full":  # only in a worker that has done something before
        if len(LOG.with_name(str(os.getpid())).read_text()) > 3:  # two formulas are parsed as it starts
            raise MemoryError
    blocks = []
    while name == "eat":
        blocks.append(bytearray(2**20))
        LOG.with_name("eaten").write_text(str(psutil.Process().memory_info().rss))
    if name == "deep":
        raise RecursionError(name)
    if name == "fail":
        return sympy.FiniteSet(sympy.Symbol(text))  # which only math-verify compares
    return sympy.Symbol("y" if name in ("late", "y") else text, real=True)
'''

STAND_IN_VERIFY = """
def verify(reference, found, **settings):
    raise TypeError("cannot compare")
"""


@pytest.fixture(autouse=True)
def own_pools(monkeypatch):
    """Pools of this test alone, closed at its end."""
    monkeypatch.setattr(pools, "_pools", {})
    grading.perform.cache_clear()
    yield
    for pool in pools._pools.values():
        pool.close()
    grading.perform.cache_clear()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder with the stand-ins, first on the path of every worker; returns the log of their calls."""
    write_stand_in(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "log"


def write_stand_in(folder, parser=STAND_IN):
    """Write the stand-ins into a folder."""
    (folder / "latex2sympy2_extended").mkdir(exist_ok=True)
    (folder / "latex2sympy2_extended" / "__init__.py").write_text(parser)
    (folder / "math_verify.py").write_text(STAND_IN_VERIFY)


def run_script(code, *arguments, folder=None, **settings):
    """Start Python on a script, with the library and the stand-in (if any) on its path."""
    path = os.pathsep.join(filter(None, [folder and str(folder), SOURCES]))
    return subprocess.Popen(
        [sys.executable, *(arguments or ("-c", textwrap.dedent(code)))],
        env=os.environ | {"PYTHONPATH": path}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


def worker_pids(limits):
    return {worker.process.pid for worker in pools.get_pool(limits).workers}


def gone(process):
    """Whether a process has ended, even if nobody has read its exit status yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


# --- one worker goes, the pool stays ---


@pytest.mark.parametrize(
    ("answer", "verdict", "seconds"),
    [
        ("hang+1", Verdict.UNKNOWN, BRIEF),  # asleep: it may be the machine's fault
        ("busy+1", Verdict.TIMEOUT, BRIEF),
        ("eat+1", Verdict.ERROR, WAIT_SECONDS),
        ("crash+1", Verdict.ERROR, WAIT_SECONDS),
        ("die+1", Verdict.UNKNOWN, WAIT_SECONDS),  # as if from outside
    ],
)
def test_a_lost_worker_is_replaced(stand_in, answer, verdict, seconds):
    limits = Limits(seconds=seconds, memory_mb=64, workers=2)
    before = worker_pids(limits)
    result = grade(answer, "x+1", limits=limits)
    assert (result.verdict, result.extracted) == (verdict, answer)
    after = worker_pids(limits)
    assert len(before) == len(after) == 2
    assert len(before & after) == 1  # one was replaced, the other never touched
    assert not any(psutil.pid_exists(pid) for pid in before - after)
    assert [grade(f"{n}+x", "2+x", limits=limits).verdict for n in range(4)] == [
        Verdict.WRONG, Verdict.WRONG, Verdict.CORRECT, Verdict.WRONG,
    ]  # fmt: skip


@pytest.mark.parametrize("answer", ["flaky+1", "shot+1"])
def test_what_befalls_a_worker_once_changes_no_verdict(stand_in, answer):
    """It hangs, or is killed, the first time; the second worker finds out."""
    limits = Limits(seconds=BRIEF, workers=1)
    assert grade(answer, "x+1", limits=limits).verdict is Verdict.WRONG
    assert stand_in.read_text().split().count(answer.partition("+")[0]) == 2


def test_memory_that_earlier_answers_took_decides_nothing(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=1)
    for answer in ("x+2", "x+3"):
        grade(answer, "x+1", limits=limits)
    assert grade("full+1", "full+2", limits=limits).verdict is Verdict.ERROR  # two formulas are one too many
    for answer in ("x+2", "x+3"):
        grade(answer, "x+1", limits=limits)
    assert find_parsable([("full+3", AnswerKind.MATH)], limits=limits) == [True]


def test_time_in_which_a_worker_waits_for_a_processor_does_not_count(stand_in, monkeypatch):
    """It replies after ten times its limit, in which it did not sleep, as far as the parent can see."""
    monkeypatch.setattr(pools.Worker, "is_asleep", lambda self: False)
    limits = Limits(seconds=0.03, workers=1)
    assert grade("late+1", "y+1", limits=limits).verdict is Verdict.CORRECT


def test_a_worker_that_is_stopped_is_replaced(stand_in):
    limits = Limits(seconds=BRIEF, workers=1)
    (worker,) = pools.get_pool(limits).workers
    worker.wait_until_ready()
    worker.process.send_signal(signal.SIGSTOP)
    assert grade("x+2", "x+1", limits=limits).verdict is Verdict.WRONG
    assert worker_pids(limits) != {worker.process.pid}


def test_the_limit_holds_where_the_parent_blocks_and_ignores_its_signal(stand_in):
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        limits = Limits(seconds=0.1, workers=1)
        (worker,) = pools.get_pool(limits).workers
        assert grade("busy+1", "x+1", limits=limits).verdict is Verdict.TIMEOUT
        assert worker.process.returncode == -signal.SIGPROF
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("answer", ["fail+1", "deep+1"])
def test_a_failed_comparison_costs_no_worker(stand_in, answer):
    limits = Limits(seconds=WAIT_SECONDS, workers=1)
    before = worker_pids(limits)
    assert grade(answer, "x+1", limits=limits).verdict is Verdict.ERROR
    assert worker_pids(limits) == before


def test_a_worker_killed_from_outside_in_the_middle(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=1)
    (pid,) = worker_pids(limits)
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(grade, "flaky+1", "x+1", limits=limits)
        wait_until(lambda: stand_in.exists() and "flaky" in stand_in.read_text())
        os.kill(pid, signal.SIGKILL)
        assert result.result(timeout=WAIT_SECONDS).verdict is Verdict.WRONG
    assert len(worker_pids(limits)) == 1
    assert worker_pids(limits) != {pid}
    assert grade("x+2", "x+1", limits=limits).verdict is Verdict.WRONG


def test_a_worker_killed_while_idle_costs_no_answer(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=1)
    assert grade("x+2", "x+1", limits=limits).verdict is Verdict.WRONG
    (worker,) = pools.get_pool(limits).workers
    worker.process.kill()
    worker.process.wait()
    assert grade("x+3", "x+1", limits=limits).verdict is Verdict.WRONG
    assert len(worker_pids(limits)) == 1
    assert worker_pids(limits) != {worker.process.pid}


def test_a_worker_that_cannot_start_is_bad_input(tmp_path, monkeypatch, capfd):
    (tmp_path / "math_verify.py").write_text("raise ImportError('not there')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"did not start .* is math-verify installed"):
        grade("x+2", "x+1", limits=Limits(workers=1))
    assert "not there" in capfd.readouterr().err


def test_a_parent_that_goes_before_its_workers_are_ready_leaves_no_traceback():
    """One worker answers, the other is still importing when the parent ends without closing anything."""
    script = """
        import os
        from adaptthink.grading import Limits, pool
        workers = [pool.Worker(Limits(workers=1)) for _ in range(3)]
        workers[0].wait_until_ready()
        os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )  # the error stream is the workers' too, so this returns when the last of them is gone
    assert done.stderr == ""


def test_a_worker_killed_while_it_starts_costs_no_answer():
    limits = Limits(workers=1)
    (worker,) = pools.get_pool(limits).workers
    worker.process.kill()
    assert grade("x+2", "x+1", limits=limits).verdict is Verdict.WRONG


def test_the_pool_keeps_its_size_when_the_system_refuses_a_process(monkeypatch):
    limits = Limits(workers=1)
    pool = pools.get_pool(limits)
    (worker,) = pool.workers
    worker.wait_until_ready()
    worker.process.kill()
    worker.process.wait()

    def refuse(*arguments, **settings):
        raise OSError("no more processes")

    with monkeypatch.context() as patch:
        patch.setattr(pools.subprocess, "Popen", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="no more processes"):
                grade("x+2", "x+1", limits=limits)
    assert grade("x+2", "x+1", limits=limits).verdict is Verdict.WRONG
    assert len(pool.workers) == 1


def test_memory_never_passes_the_limit(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, memory_mb=64, workers=1)
    (worker,) = pools.get_pool(limits).workers
    worker.wait_until_ready()
    start = worker.memory_mb()
    assert grade("eat+1", "x+1", limits=limits).verdict is Verdict.ERROR
    eaten = int(stand_in.with_name("eaten").read_text()) / 2**20  # as the worker saw itself before the last block
    assert start + 10 < eaten <= start + limits.memory_mb + 8


def test_the_parent_watches_memory_where_the_system_does_not(stand_in, monkeypatch):
    limits = Limits(seconds=WAIT_SECONDS, memory_mb=64, workers=1)
    monkeypatch.setattr(pools.Worker, "memory_mb", lambda self: 129.0)
    assert grade("hang+1", "x+1", limits=limits).verdict is Verdict.ERROR


# --- real formulas ---


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["9^{9^{9^{9}}}", r"(10^9)!", r"\binom{10^9}{5\cdot10^8}", "2^{2^{33}}+x"])
def test_formulas_that_cannot_be_worked_out(answer):
    limits = Limits(seconds=1, memory_mb=128, workers=1)
    before = worker_pids(limits)
    assert grade(answer, r"\sqrt{2}+x", limits=limits).verdict in (Verdict.TIMEOUT, Verdict.ERROR)
    assert len(worker_pids(limits)) == 1
    assert worker_pids(limits) != before
    calm = Limits(seconds=WAIT_SECONDS, workers=1)  # the next answer must not fail for a busy machine
    assert grade(r"x+\sqrt{2}", r"\sqrt{2}+x", limits=calm).verdict is Verdict.CORRECT


# --- what is kept ---


def test_outcomes_are_kept_but_not_failures(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=1)
    worker = next(iter(pools.get_pool(limits).workers))
    worker.wait_until_ready()
    for answer in ("x+2", "fail+1", "die+1"):
        grade(answer, "y+1", limits=limits)
        grade(answer, "y+1", limits=limits)
    calls = stand_in.read_text().split()
    assert calls.count("die") == 2 * 3
    assert grading.perform.cache_info().currsize == 1
    assert grading.perform.cache_info().hits == 1


def test_an_unknown_outcome_is_not_kept(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=1)
    assert grade("die+1", "die+1 ", limits=limits).verdict is Verdict.CORRECT  # the same text: no worker
    assert not stand_in.exists()
    assert grade("die+1", "x+1", limits=limits).verdict is Verdict.UNKNOWN
    write_stand_in(stand_in.parent, STAND_IN.replace('"die"', '"nothing"'))
    for worker in list(pools.get_pool(limits).workers):
        worker.process.kill()
    assert grade("die+1", "x+1", limits=limits).verdict is Verdict.WRONG


# --- from threads, asyncio and other processes ---


def test_order_is_kept_while_several_threads_grade(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=2)

    def work(number):
        answers = [("late" if n % 3 == 0 else "x") + f"+{number}{n}" for n in range(6)]
        grades = grade_all([Submission(answer, f"y+{number}") for answer in answers], limits=limits)
        assert [result.extracted for result in grades] == answers
        return [result.verdict for result in grades]

    expected = [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG] * 2  # what is late is right
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4), timeout=WAIT_SECONDS)) == [expected] * 4
    assert len(worker_pids(limits)) == 2


def test_finished_answers_are_counted(stand_in):
    counts = []
    submissions = [Submission(answer, "4") for answer in ("4", "x+1", None, "x+2")]
    grades = grade_all(submissions, limits=Limits(seconds=WAIT_SECONDS, workers=1), on_finish=counts.append)
    assert [result.verdict for result in grades] == [
        Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED, Verdict.WRONG,
    ]  # fmt: skip
    assert counts == [1, 1, 1, 1]


def test_asyncio(stand_in):
    limits = Limits(seconds=WAIT_SECONDS, workers=2)
    answers = ["late+1", "x+2", "late+3", "x+4"]

    async def grade_together():
        return await asyncio.gather(*(asyncio.to_thread(grade, answer, "y+1", limits=limits) for answer in answers))

    async def main():
        return await asyncio.wait_for(grade_together(), WAIT_SECONDS)

    grades = asyncio.run(main())
    assert [(result.extracted, str(result.verdict)) for result in grades] == [
        ("late+1", "correct"), ("x+2", "wrong"), ("late+3", "correct"), ("x+4", "wrong"),
    ]  # fmt: skip


def test_parsable_references(stand_in):
    limits = Limits(seconds=BRIEF, workers=1)
    references = [("5", AnswerKind.MATH), ("x+1", AnswerKind.MATH), ("busy+1", AnswerKind.MATH), ("{", AnswerKind.MATH)]
    references += [
        ("x+2", AnswerKind.MATH),
        ("crash+1", AnswerKind.MATH),
        ("shot+1", AnswerKind.MATH),
        ("C", AnswerKind.CHOICE),
        ("7", AnswerKind.CHOICE),
    ]
    expected = [True, True, False, False, True, False, True, True, False]
    assert find_parsable(references, limits=limits) == expected
    assert find_parsable([], limits=limits) == []


@pytest.mark.parametrize("answer", ["die+1"])
def test_a_reference_answer_that_cannot_be_checked_is_never_dropped(stand_in, answer):
    with pytest.raises(
        UserError, match=r"the reference answer '\w+\+1' could not be checked in 3 tries .*[Rr]un the com"
    ):
        find_parsable([("x+1", AnswerKind.MATH), (answer, AnswerKind.MATH)], limits=Limits(seconds=BRIEF, workers=1))


PLAIN = """
from adaptthink.grading import Limits, grade
print(grade("x+2", "2+x", limits=Limits(seconds=1800, workers=1)).verdict, flush=True)
"""


@pytest.mark.parametrize("way", ["file", "-c"])
def test_without_a_main_guard(tmp_path, way):
    (tmp_path / "script.py").write_text(PLAIN)
    with run_script(PLAIN, *(["script.py"] if way == "file" else []), cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert (output, errors, process.returncode) == ("correct\n", "", 0)


DAEMON = """
import multiprocessing, os, sys
from adaptthink.grading import Limits, grade
from adaptthink.grading.pool import get_pool

limits = Limits(seconds=1800, workers=1)

def pids():
    return {worker.process.pid for worker in get_pool(limits).workers}

def work(queue):
    queue.put((str(grade("x+2", "2+x", limits=limits).verdict), pids()))

if __name__ == "__main__":
    print(grade("x+3", "3+x", limits=limits).verdict)
    mine = pids()
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,), daemon=True)
    process.start()
    verdict, theirs = queue.get(timeout=1800)
    process.join(1800)
    print(verdict, len(theirs), bool(mine & theirs), process.exitcode)
    print(grade("x+4", "4+x", limits=limits).verdict, pids() == mine)
    import psutil
    psutil.wait_procs([psutil.Process(pid) for pid in theirs if psutil.pid_exists(pid)], timeout=1800)
    print([pid for pid in theirs if psutil.pid_exists(pid)])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_daemonic_process(tmp_path, method):
    (tmp_path / "script.py").write_text(DAEMON)
    with run_script("", "script.py", method, cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert (output, errors) == ("correct\ncorrect 1 False 0\ncorrect True\n[]\n", "")


FORK_UNDER_LOCK = """
import os
from adaptthink.grading import Limits, grade, pool
with pool._pools_lock:  # as another thread would hold it that starts a pool
    child = os.fork()
    if not child:
        verdict = grade("x+2", "2+x", limits=Limits(seconds=1800, workers=1)).verdict
        os.write(1, verdict.encode())
        os._exit(0)
os.waitpid(child, 0)
"""


def test_fork_while_a_pool_starts():
    with run_script(FORK_UNDER_LOCK, start_new_session=True) as process:
        try:
            output, errors = process.communicate(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert (output, errors) == ("correct", "")


# --- the end ---

ENDING = """
import json, os, sys, threading, time
from adaptthink.grading import Limits, grade
from adaptthink.grading.pool import get_pool

limits = Limits(seconds=1, workers=2)
pool = get_pool(limits)
for worker in pool.workers:
    worker.wait_until_ready()
if "fork" in sys.argv and not os.fork():
    time.sleep(10**6)
print(json.dumps([worker.process.pid for worker in pool.workers]), flush=True)
if "busy" in sys.argv:
    threading.Thread(target=grade, args=("busy+1", "x+1"), kwargs={"limits": limits}).start()
sys.stdin.readline()
if "raise" in sys.argv:
    raise SystemExit(3)
"""


def start_ending(tmp_path, *words):
    write_stand_in(tmp_path)
    (tmp_path / "script.py").write_text(ENDING)
    process = run_script("", "script.py", *words, folder=tmp_path, cwd=tmp_path, start_new_session=True)
    workers = [psutil.Process(pid) for pid in json.loads(process.stdout.readline())]
    assert len(workers) == 2
    assert all(worker.is_running() for worker in workers)
    return process, workers


@pytest.mark.parametrize("how", ["end", "raise"])
def test_workers_end_with_their_parent(tmp_path, how):
    process, workers = start_ending(tmp_path, how)
    with process:
        _, errors = process.communicate("\n", timeout=WAIT_SECONDS)
    assert (process.returncode, errors) == ({"end": 0, "raise": 3}[how], "")
    wait_until(lambda: all(map(gone, workers)))


# A busy worker does not see its socket close: the limit on its processor time ends it.
@pytest.mark.parametrize("how", ["idle", "busy", "fork"])
def test_workers_end_when_their_parent_is_killed(tmp_path, how):
    process, workers = start_ending(tmp_path, how)
    with process:
        if how == "busy":
            wait_until(lambda: (tmp_path / "log").exists() and "busy" in (tmp_path / "log").read_text())
        process.kill()
        try:
            wait_until(lambda: all(map(gone, workers)))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the forked child that sleeps


INTERRUPTED = """
import sys, time
from adaptthink.grading import Limits, grade
from adaptthink.grading.pool import get_pool

limits = Limits(seconds=1800, workers=2)
pool = get_pool(limits)
before = {worker.process.pid for worker in pool.workers}
if sys.argv[1] == "ready":
    for worker in pool.workers:
        worker.wait_until_ready()
try:
    print("go", flush=True)
    time.sleep(10**6)
except KeyboardInterrupt:
    pass
print([str(grade(f"x+{n}", f"{n}+x", limits=limits).verdict) for n in (1, 2, 3)])
print({worker.process.pid for worker in pool.workers} == before)
"""


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_interrupt_from_the_keyboard(tmp_path, moment):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    with run_script("", "script.py", moment, cwd=tmp_path, start_new_session=True) as process:
        assert process.stdout.readline() == "go\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
        output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert (output, errors) == ("['correct', 'correct', 'correct']\nTrue\n", "")


# --- the fast path ---

FAST = r"""
import sys
import psutil
from adaptthink.grading import AnswerKind, Submission, find_parsable, grade_all, pool
pairs = [
    ("\\boxed{1{,}234.50}", "1234.5"), ("so \\boxed{\\dfrac12}", "0.5"), ("Answer: 1 1/2", "\\frac{3}{2}"),
    ("\\boxed{\\left(3, \\tfrac{1}{2}\\right)}", "(3,0.5)"), ("\\boxed{\\{2,1\\}}", "\\{1,2\\}"),
    ("\\boxed{[0,1)\\cup(2,\\infty)}", "[0,1) \\cup (2,\\infty)"), ("\\boxed{\\text{Monday}}", "monday"),
    ("\\boxed{50\\%}", "50"), ("\\boxed{5\\text{ cm}}", "5"), ("#### 7", "7"), ("\\boxed{1.5e3}", "1500"),
    ("\\boxed{\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}}", "\\begin{bmatrix}1.0&2\\\\3&4\\end{bmatrix}"),
]
submissions = [Submission(*pair) for pair in pairs]
submissions += [Submission("The answer is (C).", "C", AnswerKind.CHOICE)]
print({str(result.verdict) for result in grade_all(submissions)})
pairs = [(one.reference_answer, one.kind) for one in submissions if "infty" not in one.reference_answer]
print(all(find_parsable(pairs)))
print([name for name in ("sympy", "math_verify", "latex2sympy2_extended", "antlr4", "torch") if name in sys.modules])
print(pool._pools, psutil.Process().children())
"""


def test_the_fast_path_starts_nothing_and_imports_no_sympy():
    with run_script(FAST) as process:
        output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert (output, errors) == ("{'correct'}\nTrue\n[]\n{} []\n", "")


def test_ray(stand_in):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        limits = Limits(seconds=WAIT_SECONDS, workers=1)
        task = ray.remote(lambda: str(grade("x+2", "x+1", limits=limits).verdict))
        assert ray.get(task.remote(), timeout=WAIT_SECONDS) == "wrong"
    finally:
        ray.shutdown()
