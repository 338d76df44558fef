"""The command line as a person meets it: help, one-line complaints, exit codes, files."""

import importlib
import inspect
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.cells import cell_len
from transformers import Qwen2Tokenizer
from waiting import WAIT_SECONDS

import adaptthink
from adaptthink.cli import app as cli
from adaptthink.cli import pipeline
from adaptthink.cli.settings import read_run_settings
from adaptthink.config.chat import ChatConfig
from adaptthink.config.groups import GROUPS
from adaptthink.config.resolve import list_recipes, resolve
from adaptthink.config.schema import (
    PLANNED,
    EvaluateConfig,
    PresampleConfig,
    ServeConfig,
    SftConfig,
    TrainConfig,
    VerlConfig,
)
from adaptthink.errors import DivergedError
from adaptthink.models.make_tiny import make_model
from adaptthink.processes import Interruption

HEAVY = ("torch", "transformers", "pydantic", "matplotlib", "numpy", "datasets", "pyarrow", "reasoning_gym", "scipy")
SLOW = ("transformers.modeling_utils", "torch._dynamo", "torch.distributed.tensor", "datasets", "sympy", "matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours
SETTINGS = {  # of each command, as flags
    "presample": PresampleConfig.model_fields,
    "train": VerlConfig.model_fields,
    "plan": {key: VerlConfig.model_fields[key] for key in PLANNED},
    "evaluate": EvaluateConfig.model_fields | ChatConfig.model_fields,
    "calibrate": EvaluateConfig.model_fields,
    "traces": {
        key: field
        for key, field in (EvaluateConfig.model_fields | ChatConfig.model_fields).items()
        if key not in ("kind", "model")
    },
    "sft": SftConfig.model_fields,
    "serve": ServeConfig.model_fields,
}
GOOD_PROBLEM = '{"prompt": "1+1=?", "answer": "2"}\n'


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No settings from outside, wide lines in help, and every relative path within tmp_path."""
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(cli.app, "console", None)
    apps = [cli.app, *(cli.app[name] for name in cli.COMMANDS), *(cli.data[name] for name in cli.DATA_COMMANDS)]
    for app in apps:
        monkeypatch.setattr(app, "_fallback_console", None)  # which keeps the width of the first use in this process
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def complaint(run):
    """Run a command that must fail as bad input; returns its one line."""

    def complaint_(*args):
        status, out, err = run(*args)
        assert status == 2
        assert out == ""
        return only_line(err)

    return complaint_


def only_line(err):
    """The one line on standard error. The bar that transformers shows while it loads weights is no complaint."""
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("Loading weights")]
    assert len(lines) == 1, err
    assert lines[0].startswith("adaptthink: ")
    return lines[0].removeprefix("adaptthink: ")


def process(*args, timeout=WAIT_SECONDS, cwd=None):
    """Run Python in a process of its own; returns what came of it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ADAPTTHINK_")}
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True, text=True, env=environment, timeout=timeout, cwd=cwd, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tokenizer, tmp_path_factory):
    """An untrained model that can be loaded by path."""
    folder = tmp_path_factory.mktemp("model")
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model_without_markers(tokenizer, tmp_path):
    """A model folder whose tokenizer knows neither <think> nor </think>."""
    folder = tmp_path / "plain"
    vocabulary = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    plain = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[],
        unk_token=None,
        eos_token="<|eos|>",
        pad_token="<|pad|>",
    )
    plain.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    plain.save_pretrained(folder)
    make_model(tokenizer).config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_names_every_command(run, args):
    status, out, err = run(*args)
    assert (status, err) == (0, "")
    for name in (
        "demo",
        "train",
        "evaluate",
        "compare",
        "calibrate",
        "decide",
        "score",
        "reproduce",
        "bench",
        "serve",
        "doctor",
        "plan",
        "report",
        "data",
    ):
        assert f" {name} " in out
    assert "adaptthink demo" in out


@pytest.mark.parametrize("command", SETTINGS)
def test_help_shows_every_setting_with_its_default(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    lines = out.splitlines()
    for name, field in SETTINGS[command].items():
        found = [line for line in lines if f"--{name.replace('_', '-')} " in line]
        if name == "model" and command in ("evaluate", "calibrate", "serve"):
            assert found == []  # it is an argument
            continue
        (line,) = found
        assert field.default in (None, ()) or field.is_required() or f"[default: {field.default}]" in line
        assert field.description in line


@pytest.mark.parametrize("command", SETTINGS)
def test_help_is_in_groups_and_reads_well_on_80_columns(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(command, "--help")[1].splitlines()
    titles = [line.split("─ ")[1].split(" ─")[0] for line in lines if line.startswith("╭")]
    settings = [title for title in GROUPS if set(GROUPS[title]) & set(SETTINGS[command]) - {"model"}]
    assert [title for title in titles if title not in ("Arguments", "Parameters")] == settings
    assert titles.index("Main settings") == 1 + ("Arguments" in titles)
    assert max(map(cell_len, lines)) <= 80
    for name in SETTINGS[command].keys() - {"model"}:  # no name is cut in two
        assert f"--{name.replace('_', '-')}" in {word for line in lines for word in line.split()}


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "demo",
            ["--output PATH", "[default: runs/demo]", "[default: toy_cpu toy_gap]", "[default: the recipe's, else 0]"],
        ),
        ("train", ["--output PATH", "[default: runs/train]", "--resume", "--clean", "--dry-run", "in the run folder]"]),
        ("presample", ["[default: runs/reference.jsonl]", "--dry-run"]),
        ("evaluate", ["MODEL", "[default: auto think no_think]", "--difficulty-from PATH", "--delta FLOAT"]),
        ("compare", ["ROWS", "--force", "--markdown PATH"]),
        (
            "calibrate",
            ["MODEL", "--tolerance FLOAT", "[default: 1.0]", "--token-budget FLOAT", "[default: runs/calibration]"],
        ),
        ("decide", ["MODEL", "PROMPTS", "--threshold FLOAT", "--dial PATH", "--think-start STR"]),
        ("traces", ["--teacher STR", "[default: runs/traces.jsonl]", "--dry-run"]),
        ("sft", ["--traces PATH", "[default: runs/traces.jsonl]", "[default: runs/sft]", "--resume", "--clean"]),
        ("score", ["PROMPTS", "--model STR", "--threshold FLOAT", "--dial PATH", "[default: runs/scores.jsonl]"]),
        ("plan", ["--gpus STR", "[required]", "--think-tokens FLOAT", "--reference PATH", "--price FLOAT"]),
        ("doctor", ["MODEL", "--think-start STR", "[default: Alright]"]),
        ("report", ["FOLDER", "[required]", "--output PATH", "--figures PATH"]),
    ],
)
def test_help_shows_the_other_flags(run, command, shown):
    status, out, _ = run(command, "--help")
    assert status == 0
    for text in [*shown, "--json PATH", cli.COMMANDS[command]]:
        assert text in out


@pytest.mark.parametrize("command", cli.DATA_COMMANDS)
def test_help_of_the_data_commands(run, command):
    _, out, _ = run("data", "--help")
    assert cli.DATA_COMMANDS[command] in out
    status, out, _ = run("data", command, "--help")
    assert status == 0
    for text in (cli.DATA_COMMANDS[command], "PROBLEMS", "[required]", "--data PATH", "--fields STR", "--json PATH"):
        assert text in out


@pytest.mark.parametrize("args", [("--version",), ("train", "--version"), ("evaluate", "--version")])
def test_version_is_our_own(run, args):
    assert run(*args) == (0, f"{adaptthink.__version__}\n", "")


@pytest.mark.parametrize(
    "program",
    ["import adaptthink, adaptthink.cli.app", "import runpy; runpy.run_module('adaptthink', run_name='__main__')"],
)
def test_import_and_help_load_nothing_heavy(program):
    code = (
        "import sys; sys.argv = ['adaptthink', '--help']\n"
        f"try:\n    {program}\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = process("-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "loaded: []"
    assert ("Usage: adaptthink COMMAND" in result.stdout) == ("runpy" in program)


def test_checking_settings_loads_no_torch():
    code = (
        "import sys; sys.argv = ['adaptthink', 'train', 'toy_cpu', '--dry-run']\n"
        "from adaptthink.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('loaded:', [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert process("-c", code).stdout.splitlines()[-1] == "loaded: []"


GENERATING = """
import sys, uvicorn
from adaptthink.cli.app import main
from adaptthink.training import train as training

uvicorn.Server.run = lambda *args, **options: None  # a server that ends at once
training.make_trainable = lambda policy: sys.exit("sampled")  # a training that ends after its first rollout
for args in (
    "decide tiny 2+3=? --threshold 0.5",
    "score arithmetic --output s.jsonl",
    "presample --model tiny --problems-per-step 2 --steps 1 --output r.jsonl --max-think-tokens 4",
    "evaluate tiny --problems-per-level 1 --output e --max-think-tokens 4",
    "calibrate tiny --problems-per-level 1 --output c --max-think-tokens 4",
    "serve tiny --port 0",
    "train --model tiny --problems-per-step 2 --steps 1 --reference r.jsonl --output t --max-think-tokens 4",
):
    sys.argv = ["adaptthink", *args.split()]
    try:
        main()
    except SystemExit as ended:
        end = ended
        assert end.code in (None, 0, 1, "sampled"), args  # 1: nothing is certified
assert end.code == "sampled"
print("loaded:", [name for name in {} if name in sys.modules])
"""


@pytest.mark.slow
def test_generating_loads_neither_transformers_modules_nor_compilers(tmp_path):
    """Their import takes longer than all else before the first response."""
    result = process("-c", GENERATING.format(("torch", *SLOW)), cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == "loaded: ['torch']", result.stderr


def test_as_a_process():
    result = process("-m", "adaptthink", "train", "--delta", "7")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "adaptthink: delta = '7': input should be less than or equal to 1\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train --delat 0.1", "Unknown option: --delat. Did you mean --delta?"),
        ("evaluate tiny --top_pp 1", "Unknown option: --top_pp. Did you mean --top-p?"),
        (
            "trian",
            'Unknown command "trian". Did you mean "train"? '
            "Available commands: demo, run, train, traces, sft, presample, evaluate, reproduce, ...",
        ),
        ("train --delta 7", "delta = '7': input should be less than or equal to 1"),
        (
            "evaluate tiny --problems arithmetic --samples-by-set aime24=16",
            "samples_by_set has no effect: the problems are of arithmetic, not of aime24; leave it out",
        ),
        ("train --no-think-share 1.5", "no_think_share = '1.5': input should be less than or equal to 1"),
        (
            "train --no-think-share 0.3",
            "no_think_share = 0.3 of samples_per_problem = 16 is 4.8 samples; "
            "choose a share that gives a whole number, such as 0.3125",
        ),
        ("train --steps many", "steps = 'many': input should be a valid integer, unable to parse string as an integer"),
        ("train --steps", 'Command "train" parameter --steps requires an argument.'),
        ("evaluate", 'Command "evaluate" parameter MODEL requires an argument.'),
        (
            "evaluate tiny --modes aut",
            'Invalid value "aut" for --modes. Choose from: "auto", "think", "no_think". Did you mean "auto"?',
        ),
        (
            "evaluate tiny --model other",
            "evaluate takes its model as an argument, not as --model: adaptthink evaluate MODEL",
        ),
        (
            "calibrate tiny --chat http://a",
            "--chat has no effect in calibrate: it is a setting of evaluate, traces; leave it out",
        ),
        ("demo --steps 3", "--steps has no effect in demo: it is a setting of presample, train, sft; leave it out"),
        (
            "plan --gpus 8xH100 --force-think ban",
            "--force-think has no effect in plan: it is a setting of train, evaluate, traces, serve; leave it out",
        ),
        (
            "serve tiny --nodes 2",
            "--nodes has no effect in serve: it is a setting of train --backend verl; leave it out",
        ),
        ("train --nodes 2", "nodes has no effect: it is for --backend verl; give that too, or leave it out"),
        (
            "train --verl-python python3",
            "--verl-python has no effect: it is for --backend verl; give that too, or leave it out",
        ),
        (
            "plan --gpus H100 --offload",
            "offload has no effect: it is for verl, which a training on one device does not need; give --gpus more "
            "than one, or leave it out",
        ),
        (
            "plan --gpus 8xH100 --engine vllm",
            "engine has no effect: verl generates with a vLLM of its own; leave it out",
        ),
        (
            "evaluate tiny --problems-per-level 3 --problems gsm8k",
            "problems_per_level has no effect: it is for problems of arithmetic, words or reasoning_gym, not for "
            "'gsm8k'; leave it out",
        ),
        (
            "presample --fields prompt=q",
            "fields has no effect: it is for problems of a file, not for 'arithmetic'; leave it out",
        ),
        (
            "data check arithmetic --against reasoning_gym:chain_sum --data .",
            "data has no effect: it is for problems of a named set, not for 'arithmetic'; leave it out",
        ),
        (
            "data show gsm8k --fields prompt=q",
            "fields has no effect: it is for problems of a file, not for 'gsm8k'; leave it out",
        ),
        (
            "demo --recipe evaluated.toml",
            "evaluated.toml: device has no effect: a run evaluates the model that it trains, with the engine of the "
            "training; leave it out of [evaluate]",
        ),
        (
            "train toy_cpu --recipe toy_cpu",
            "'toy_cpu' is left over: give all recipes together, first or after --recipe",
        ),
        (
            "train nowhere",
            "no recipe 'nowhere': give the path of a TOML file or one of: " + ", ".join(list_recipes()),
        ),
        ("serve tiny --model other", "serve takes its model as an argument, not as --model: adaptthink serve MODEL"),
        ("serve tiny --threshold 2", "threshold = '2': input should be less than or equal to 1"),
        (
            "serve nowhere --port 0",
            "no model folder 'nowhere': give an existing folder, a hub id like 'org/name', 'tiny' or 'tiny_long'",
        ),
        ("train bad.toml", "bad.toml: not a valid TOML file: Invalid value (at line 1, column 5)"),
        ("train misspelt.toml", "misspelt.toml [train]: unknown key 'delat'; did you mean 'delta'?"),
        ("demo --recipe misspelt.toml", "misspelt.toml [train]: unknown key 'delat'; did you mean 'delta'?"),
        (
            "evaluate nowhere",
            "no model folder 'nowhere': give an existing folder, a hub id like 'org/name', 'tiny' or 'tiny_long'",
        ),
        (
            "doctor ./a/b",
            "no model folder './a/b': give an existing folder, a hub id like 'org/name', 'tiny' or 'tiny_long'",
        ),
        ("doctor empty", "model folder 'empty' has no config.json; give a folder in Hugging Face format"),
        (
            "train --output used",
            "output folder 'used' is in use: give another --output, --resume to go on, or --clean",
        ),
        ("demo --output used --clean", "'used' is not empty and no run of ours; --clean empties only run folders"),
        (
            "train --output used --resume",
            "'used' holds no config.json, so there is no run to resume; give another --output",
        ),
        (
            "train --output used --resume --clean",
            "--resume goes on with an earlier run and --clean deletes it; give one of the two",
        ),
    ],
)
def test_bad_input(complaint, tmp_path, args, message):
    (tmp_path / "bad.toml").write_text("a = \n")
    (tmp_path / "misspelt.toml").write_text("[train]\ndelat = 0.1\n")
    (tmp_path / "evaluated.toml").write_text('[evaluate]\ndevice = "cpu"\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert complaint(*args.split()) == message
    assert sorted(tmp_path.rglob("*")) == before


def test_report_of_nothing(complaint):
    assert complaint("report", "nowhere").startswith("'nowhere' holds neither summary.json nor config.json")


def test_unknown_variable(complaint, monkeypatch):
    monkeypatch.setenv("ADAPTTHINK_DELAT", "0.1")
    message = "environment: unknown key 'ADAPTTHINK_DELAT'; did you mean 'ADAPTTHINK_DELTA'?"
    assert complaint("train", "--dry-run") == message


@pytest.mark.parametrize("command", ["doctor", "evaluate"])
def test_model_without_the_tokens_of_a_thought(run, model_without_markers, command):
    status, out, err = run(command, model_without_markers)
    assert status == 2
    line = only_line(err)
    assert line.startswith("the tokenizer does not know the markers of a thought (<think> is 7 token(s)")
    assert line.endswith("choose a reasoning model, or give this one a cold start (adaptthink sft)")
    assert ("not ready" in out) == (command == "doctor")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "p.jsonl: holds no problem; expected one JSON object a line with 'prompt' and 'answer'"),
        (
            GOOD_PROBLEM + "{oops}\n",
            "p.jsonl, line 2: not valid JSON: Expecting property name enclosed in double quotes",
        ),
        (
            GOOD_PROBLEM + "\n" + '{"prompt": "2+2=?"}\n',
            "p.jsonl, line 3: 'answer' is missing or empty; a problem without an answer cannot be graded",
        ),
        (None, "no problem file 'p.jsonl': give the path of a file or folder (JSON lines, JSON, CSV, TSV"),
    ],
)
def test_bad_problem_files(complaint, tmp_path, model_folder, content, message):
    if content is not None:
        (tmp_path / "p.jsonl").write_text(content)
    assert complaint("evaluate", model_folder, "--problems", "p.jsonl").startswith(message)


def test_too_few_problems_to_train_on(complaint, tmp_path, model_folder):
    (tmp_path / "p.jsonl").write_text(GOOD_PROBLEM)
    line = complaint("presample", "--model", model_folder, "--problems", "p.jsonl")
    assert line == "p.jsonl: 1 problems are too few to train on; at least 10"


def test_loading_a_model_adds_nothing_to_the_one_line(run, model_folder):
    _, _, err = run("evaluate", model_folder, "--problems", "nowhere.jsonl")
    assert len(err.splitlines()) == 1


def test_result_that_cannot_be_written(run, tmp_path, model_folder):
    (tmp_path / "file").write_text("mine")
    status, _, err = run("doctor", model_folder, "--json", "file/result.json")
    assert status == 2
    assert only_line(err) == "file: File exists"
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_for_the_result_is_refused_before_any_work(complaint):
    assert complaint("train", "--json", ".") == (
        'Invalid value "." for --json. Only file is allowed, but "." is a directory.'
    )


def test_resume_with_other_settings(complaint, tmp_path):
    settings = resolve("train", TrainConfig, recipes=["toy_cpu"]).model_dump(mode="json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(settings))
    assert complaint("train", "toy_cpu", "--delta", "0.1", "--seed", "4", "--output", "run", "--resume") == (
        "run 'run' was made with other settings: "
        f"seed was 0 and is now 4, delta was {settings['delta']} and is now 0.1; "
        "return to the old ones or give another path"
    )


def test_an_error_of_our_own_is_not_hidden(run, monkeypatch):
    """Only bad input is put into one line: a bug keeps its traceback."""
    monkeypatch.setattr("adaptthink.config.resolve.read_sources", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("train")


REPEATED = "; what is done is kept: repeat the command to go on"


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (("train",), "; a training run goes on from its last checkpoint with --resume"),
        (("demo",), "; a training run goes on from its last checkpoint with --resume"),
        (("presample",), REPEATED),
        (("evaluate", "tiny"), REPEATED),
        (("calibrate", "tiny", "--problems", "arithmetic"), REPEATED),
        (("serve", "tiny"), ""),
    ],
)
def test_interruption(run, monkeypatch, args, advice):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("adaptthink.config.resolve.read_sources", interrupt)
    status, out, err = run(*args)
    assert (status, out) == (130, "")
    assert only_line(err) == f"interrupted{advice}"


@pytest.mark.parametrize(
    ("error", "args", "status", "line"),
    [
        (Interruption(15), ("train",), 75, "stopped by SIGTERM; a training run goes on from its last checkpoint"),
        (Interruption(1), ("evaluate", "tiny"), 75, "stopped by SIGHUP; what is done is kept"),
        (Interruption(2), ("train",), 130, "interrupted; a training run goes on"),
        (Interruption(15), ("serve", "tiny"), 143, "stopped by SIGTERM"),
        (DivergedError("step 3: loss nan"), ("train",), 3, "step 3: loss nan"),
    ],
)
def test_the_status_tells_how_it_ended(run, monkeypatch, error, args, status, line):
    def end(*args, **kwargs):
        raise error

    monkeypatch.setattr("adaptthink.config.resolve.read_sources", end)
    found, out, err = run(*args)
    assert (found, out) == (status, "")
    assert only_line(err).startswith(line)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    "args",
    [
        ("train", "--json"), ("train", "--output"), ("demo", "--output"), ("presample", "--output"),
        ("evaluate", "tiny", "--output"), ("calibrate", "tiny", "--output"), ("reproduce", "--output"), ("bench",),
        ("report", "x", "--figures"), ("grade", "x", "--json"), ("compare", "x", "--markdown"),
        ("plan", "--gpus", "cpu", "--json"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_written_nothing_is_begun(complaint, args):
    assert complaint(*args, "/proc/new/x").startswith("/proc/new/x: ")


def test_who_is_told_to_resume_can_do_that():
    assert set(cli.GOES_ON) <= set(cli.COMMANDS)
    for command, advice in cli.GOES_ON.items():
        module = importlib.import_module(f"adaptthink.cli.commands.{command}")
        taken = inspect.signature(getattr(module, command)).parameters
        assert ("--resume" in advice) == ("resume" in taken), command
        assert ("--clean" in advice) <= ("clean" in taken), command


def test_servers_are_enough_to_presample_a_shipped_recipe_on_them(run, complaint, monkeypatch):
    command = ("presample", "r1_distill_1.5b", "--dry-run")
    for args in (("--endpoint", "http://a:1"), ()):
        status, out, _ = run(*command, *args)
        found = tomllib.loads(out)
        assert (status, found["engine"], found["endpoint"]) == (0, "openai", ["http://a:1"])
        monkeypatch.setenv("ADAPTTHINK_ENDPOINT", "http://a:1")  # the second time
    assert "engine = 'vllm' has no endpoint" in complaint(*command, "--endpoint", "http://a:1", "--engine", "vllm")


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("train", ["--recipe", "toy_cpu", "--learning-rate", "1e-5", "--seed", "-3", "--problems", 'a "b" \\ δ.jsonl']),
        ("train", []),
        ("presample", ["toy_cpu", "--reference-samples", "3"]),
        ("evaluate", ["tiny", "--recipe", "toy_cpu", "--kind", "story", "--top-p", "1"]),
        ("evaluate", ["m", "--chat", "http://a", "--switch", "budget", "--budget-tokens", "2000"]),
        ("serve", ["tiny", "--recipe", "toy_cpu", "--port", "0", "--reasoning-format", "inline"]),
    ],
)
def test_dry_run_is_a_recipe_for_the_same_settings(run, monkeypatch, tmp_path, command, args):
    monkeypatch.setenv("ADAPTTHINK_MAX_CONCURRENT_SEQUENCES", "77")
    status, out, err = run(command, *args, "--dry-run")
    assert (status, err) == (0, "")
    monkeypatch.delenv("ADAPTTHINK_MAX_CONCURRENT_SEQUENCES")
    content = tomllib.loads(out)
    schemas = {"train": TrainConfig, "presample": PresampleConfig, "evaluate": EvaluateConfig, "serve": ServeConfig}
    schema = ChatConfig if "--chat" in args else schemas[command]
    empty = {name for name, field in schema.model_fields.items() if field.default is None} - set(content)
    assert empty <= {
        "data", "fields", "instruction", "max_problems", "reward", "name", "threshold", "closing_sentence",
        "key_variable", "effort", "price_input", "price_output", "prompt_date", "threads", "online_state",
        "online_tolerance", "requests_per_minute", "log_format", "upstream",
        "upstream_key",
    }  # fmt: skip
    secret = {name for name, field in schema.model_fields.items() if field.exclude}
    assert list(content) == [name for name in schema.model_fields if name not in empty | secret]
    assert content.get("max_concurrent_sequences", 77) == 77
    (tmp_path / "again.toml").write_text(out, encoding="utf-8")
    config = resolve(command, schema, recipes=["again.toml"])
    assert config.model_dump(mode="json") == content | dict.fromkeys(empty - secret)
    arguments = args[:1] if command in ("evaluate", "serve") else []
    assert run(command, *arguments, "--recipe", "again.toml", "--dry-run") == (0, out, "")
    assert [path.name for path in tmp_path.iterdir()] == ["again.toml"]  # a dry run leaves nothing behind


def test_a_flag_wins_even_with_the_value_of_the_default(run):
    _, out, _ = run("train", "toy_cpu", "--steps", "314", "--dry-run")
    content = tomllib.loads(out)
    assert content["steps"] == 314
    assert content["learning_rate"] == 1e-4  # of the recipe


@pytest.mark.parametrize(
    ("variable", "args", "seed"), [(None, [], 0), ("3", [], 3), ("3", ["--seed", "5"], 5), (None, ["--seed", "0"], 0)]
)
def test_seed_of_the_demo(run, monkeypatch, variable, args, seed):
    requested = []
    monkeypatch.setattr(
        pipeline, "run_job", lambda config, evaluation, *rest, **options: requested.append((config, evaluation))
    )
    if variable:
        monkeypatch.setenv("ADAPTTHINK_SEED", variable)
    assert run("demo", *args)[0] == 0
    ((config, evaluation),) = requested
    assert (config.seed, evaluation.seed) == (seed, seed)
    assert config == resolve("train", TrainConfig, recipes=["toy_cpu", "toy_gap"], flags={"seed": seed})
    assert evaluation == resolve("evaluate", EvaluateConfig, recipes=["toy_cpu", "toy_gap"], flags={"seed": seed})


def test_flags_of_a_run_hold_for_its_evaluations_where_they_say_what_it_is(run, monkeypatch, tmp_path):
    requested = []
    monkeypatch.setattr(
        pipeline,
        "run_job",
        lambda config, evaluation, *rest, **options: requested.append((config, evaluation, options)),
    )
    (tmp_path / "mine.toml").write_text("[evaluate]\nproblems_per_level = 7\nsamples_per_problem = 3\n")
    flags = "--model tiny_long --seed 5 --max-think-tokens 99 --samples-per-problem 2 --temperature 0.9 --steps 4"
    assert run("run", "toy_cpu", "mine.toml", *flags.split(), "--tolerance", "5") == (0, "", "")
    ((config, evaluation, options),) = requested
    assert (config.model, config.seed, config.max_think_tokens) == ("tiny_long", 5, 99)
    assert (evaluation.model, evaluation.seed, evaluation.max_think_tokens) == ("tiny_long", 5, 99)
    assert (config.samples_per_problem, config.temperature, config.steps) == (2, 0.9, 4)
    assert (evaluation.samples_per_problem, evaluation.temperature, evaluation.problems_per_level) == (3, 0.6, 7)
    assert options["tolerance_points"] == 5


def test_a_dry_run_of_a_run_is_a_recipe_that_gives_the_same(run, tmp_path):
    status, out, _ = run("run", "toy_cpu", "toy_gap", "--seed", "3", "--dry-run")
    assert status == 0
    (tmp_path / "again.toml").write_text(out)
    assert read_run_settings(["again.toml"], {}) == read_run_settings(["toy_cpu", "toy_gap"], {"seed": 3})
    assert run("run", "again.toml", "--dry-run") == (0, out, "")


@pytest.mark.parametrize("key", ["engine", "device", "think_start", "model"])
def test_what_a_runs_evaluations_do_not_read_is_refused(run, tmp_path, key):
    value = {"engine": "vllm", "device": "cpu", "think_start": "Hm", "model": "tiny_long"}[key]
    (tmp_path / "mine.toml").write_text(f'[evaluate]\n{key} = "{value}"\n')
    status, _, err = run("run", "mine.toml", "--dry-run")
    assert status == 2
    assert f"mine.toml: {key} has no effect: a run evaluates the model that it trains" in err


def test_json_of_the_doctor(run, tmp_path, model_folder):
    status, out, _ = run("doctor", model_folder, "--json", "new/doctor.json")
    assert status == 0
    assert "ready" in out
    result = json.loads((tmp_path / "new/doctor.json").read_text())
    assert result["ok"] is True
    assert result["model"] == str(model_folder)
    assert 0 < result["no_think_probability"] < 1


def test_json_and_samples_of_an_evaluation(run, tmp_path, model_folder):
    flags = "--problems-per-level 1 --max-think-tokens 4 --max-no-think-tokens 4 --modes auto --modes no_think"
    command = ("evaluate", model_folder, *flags.split(), "--json", "e.json", "--output", "e")
    status, out, _ = run(*command)
    assert status == 0
    assert "accuracy" in out
    result = json.loads((tmp_path / "e.json").read_text())
    assert list(result["modes"]) == ["auto", "no_think"]
    assert result["modes"]["no_think"]["overall"]["no_think_share"] == 1.0
    assert result["modes"]["no_think"]["overall"]["n"] == 5
    assert result["config"]["max_think_tokens"] == 4
    samples = (tmp_path / "e/samples.jsonl").read_bytes()
    rows = [json.loads(line) for line in samples.splitlines()]
    assert sorted(row["requested"] for row in rows) == ["auto"] * 5 + ["no_think"] * 5
    assert run(*command)[0] == 0  # nothing is missing, so nothing is sampled
    assert (tmp_path / "e/samples.jsonl").read_bytes() == samples
    status, _, err = run(*command, "--temperature", "0.9")
    assert status == 2
    assert "temperature was 0.6 and is now 0.9" in err


def test_quality_of_an_evaluation_and_comparison_of_two(run, complaint, tmp_path, model_folder):
    flags = "--problems-per-level 2 --samples-per-problem 2 --max-think-tokens 4 --max-no-think-tokens 4"
    assert run("evaluate", model_folder, *flags.split(), "--output", "a", "--top-p", "1")[0] == 0
    judged = ("--difficulty-from", "a", "--delta", "1")
    status, out, _ = run("evaluate", model_folder, *flags.split(), "--output", "b", *judged)
    assert status == 0
    assert "mode choice, delta 1" in out
    quality = json.loads((tmp_path / "b/quality.json").read_text())
    assert quality["no_think_by_pass_rate"]["reference"] == "auto of a"
    assert quality["better_mode"]["regret"]["interval"]["num_problems"] == 10
    assert quality["mass"]["others_think"] is True
    assert quality["notes"] == []
    line = complaint("compare", "a", "b")
    assert line.startswith("b cannot be compared with a: top_p is 1.0 in a and 0.95 in b. Evaluate both alike, or")
    status, out, _ = run("compare", "a", "b", "--force")
    assert status == 0
    assert out.startswith("forced, although top_p is 1.0 in a and 0.95 in b\n")
    status, out, err = run("compare", "b:think", "b", "b:no_think", "--json", "c.json", "--markdown", "c.md")
    assert (status, err) == (0, "")
    assert "not distinguishable" in out
    compared = json.loads((tmp_path / "c.json").read_text())
    assert [row["name"] for row in compared["rows"]] == ["b:think", "b", "b:no_think"]
    assert compared["rows"][2]["mean_change"]["tokens"]["verdict"] in {"higher", "lower", "not distinguishable"}
    assert (tmp_path / "c.md").read_text().startswith("**accuracy, % / mean tokens / no_think, %**")


def test_a_folder_that_is_no_evaluation_is_refused_before_the_work(complaint, tmp_path, model_folder):
    line = complaint("evaluate", model_folder, "--output", "e", "--difficulty-from", "nowhere")
    assert line == "'nowhere' holds no evaluation; make one: adaptthink evaluate MODEL --output FOLDER"
    assert not (tmp_path / "e").exists()


def test_comparing_loads_no_torch(run, tmp_path, model_folder):
    limits = ("--max-think-tokens", "2", "--max-no-think-tokens", "2")
    run("evaluate", model_folder, "--problems-per-level", "1", *limits, "--output", "e")
    code = (
        f"import sys; sys.argv = ['adaptthink', 'compare', '{tmp_path}/e', '{tmp_path}/e:think']\n"
        "from adaptthink.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('loaded:', [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert process("-c", code).stdout.splitlines()[-1] == "loaded: []"


def test_completion_for_bash(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = run("--install-completion", "--shell", "bash", "--output", tmp_path / "complete.sh")
    assert (status, err) == (0, "")
    script = (tmp_path / "complete.sh").read_text()
    for text in ("_adaptthink", "presample", "--no-think-share", "sequence_mean"):
        assert text in script
    assert subprocess.run(["bash", "-n", tmp_path / "complete.sh"], check=False).returncode == 0
