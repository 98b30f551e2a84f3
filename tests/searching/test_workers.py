"""Work elsewhere gives what it gives here: in processes, and on a cluster of two machines of which one is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from corepress.errors import ConfigError, ResourceError
from corepress.searching.workers import Plan, crew
from tests.lazy import lazy

ray = lazy("ray")
TASKS = list(range(12))


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(64, 64))


def power(built: np.ndarray, task: int) -> tuple[int, float]:
    return task, float(np.linalg.norm(built @ (built + task)))


def slow(built: np.ndarray, task: int) -> tuple[int, float, str]:
    time.sleep(0.3)
    import ray

    return *power(built, task), ray.get_runtime_context().get_node_id()


def refuses(built: np.ndarray, task: int) -> None:
    raise ConfigError(f"task {task} is refused")


def dies(built: np.ndarray, task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken() -> None:
    raise ConfigError("it can't be built")


def plan() -> Plan:
    return Plan(matrix, (3,))


def here() -> list[tuple[int, float]]:
    with crew(matrix(3), plan) as workers:
        return list(workers.each(power, TASKS))


@pytest.mark.slow
def test_processes_give_the_same_in_order() -> None:
    with crew(None, plan, jobs=2) as workers:
        assert list(workers.each(power, TASKS)) == here()
        with pytest.raises(ConfigError, match="task 0 is refused"):
            list(workers.each(refuses, TASKS))
        assert list(workers.each(power, TASKS[:1])) == here()[:1]
        with pytest.raises(ResourceError, match="ended before its work was done"):
            list(workers.each(dies, TASKS[:1]))
    with crew(None, lambda: Plan(broken, ()), jobs=2) as workers, pytest.raises(ConfigError, match="can't be built"):
        list(workers.each(power, TASKS))


def test_what_can_not_be_handed_over_is_said() -> None:
    with (
        pytest.raises(ConfigError, match="can't be handed to other processes"),
        crew(None, lambda: Plan(matrix, (lambda: 3,)), jobs=2),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_workers_end_with_the_process_that_began_them(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import os, time\n"
        "from corepress.searching.workers import Plan, crew\n"
        "def build(): return os.getpid()\n"
        "def tell(built, task): return built\n"
        "if __name__ == '__main__':\n"
        "    with crew(None, lambda: Plan(build, ()), jobs=2) as workers:\n"
        "        print(*set(workers.each(tell, range(4))), flush=True)\n"
        "        time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ids = [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert ids
    for number in ids:
        for _ in range(300):
            if not _runs(number):
                break
            time.sleep(0.1)
        assert not _runs(number)


def _runs(number: int) -> bool:
    state = Path(f"/proc/{number}/stat")
    if Path("/proc/self/stat").exists():
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_gives_the_same() -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(cluster.address, log_to_driver=False)
        with crew(None, plan, ray=cluster.address) as workers:
            results = workers.each(slow, TASKS * 2)
            found = [next(results) for _ in range(5)]
            cluster.remove_node(other, allow_graceful=False)
            found += results
            assert [result[:2] for result in found] == here() * 2
            assert len({result[2] for result in found[:5]}) == 2 and len({result[2] for result in found[-3:]}) == 1
            with pytest.raises(ConfigError, match="task 0 is refused"):
                list(workers.each(refuses, TASKS))
        ray.shutdown()
    finally:
        cluster.shutdown()


def test_a_cluster_that_is_not_there_is_said(monkeypatch) -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(ResourceError, match="no cluster can be reached there"),
        crew(None, plan, ray="127.0.0.1:9"),
    ):
        pass
