"""How verl is started on a CPU, as far as that can be known without verl: `verl_cpu.launch` needs nothing of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from verl_cpu.launch import RAY_CPUS, ROLLOUT, arguments, environment, settings

TESTS = Path(__file__).parent


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_processes_agree_on_their_number(tmp_path, ranks):
    values = settings(tmp_path, ranks)
    assert values["trainer.n_gpus_per_node"] == ranks
    assert values["+ray_kwargs.ray_init.resources"] == f"{{NPU: {ranks}}}"
    assert values["ray_kwargs.ray_init.num_cpus"] == RAY_CPUS
    assert values["actor_rollout_ref.rollout.name"] == ROLLOUT


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    paths = [value for value in settings(tmp_path).values() if isinstance(value, str) and "/" in value]
    assert len(paths) == 2
    assert all(Path(path).parent == tmp_path for path in paths)


def test_arguments_are_in_order_and_lose_nothing(tmp_path):
    values = settings(tmp_path) | {
        "data.shuffle": False,
        "actor_rollout_ref.actor.optim.lr": 1e-6,
        "trainer.logger": "[]",
    }
    assert arguments({"a.b": True, "+c": "{NPU: 2}", "d": 1e-6}) == ["a.b=True", "+c={NPU: 2}", "d=1e-06"]
    assert dict(argument.split("=", 1) for argument in arguments(values)) == {
        name: str(value) for name, value in values.items()
    }


def test_the_environment_reaches_every_process(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/before")
    monkeypatch.setenv("KEPT", "yes")
    found = environment(3, ["verl_side"], [Path("/beside")])
    assert found["PYTHONPATH"] == f"{TESTS}:/beside:/before"
    assert found["VERL_USE_EXTERNAL_MODULES"] == "verl_cpu.plugin,verl_side"
    assert found["OMP_NUM_THREADS"] == found["TQ_NUM_THREADS"] == "3"
    assert found["KEPT"] == "yes"
    monkeypatch.delenv("PYTHONPATH")
    assert environment(1)["PYTHONPATH"] == str(TESTS)


def test_verl_and_ray_are_not_imported():
    code = "import sys, verl_cpu.launch; sys.exit(any(name in sys.modules for name in ('verl', 'ray', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=TESTS, check=False).returncode == 0
