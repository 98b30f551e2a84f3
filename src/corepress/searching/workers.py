"""Independent work in other processes of this machine, or on many machines through Ray: the results are those of here.

A `Crew` does the same thing with many tasks. What it needs for that, such as the model and the samples, each of its
processes builds once.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from corepress.errors import ConfigError, ResourceError, importing
from corepress.threads import CORES
from corepress.version import __version__

# Done with what was built and one task; a function of a module, since other processes find it by its name.
Work = Callable[[Any, Any], Any]
# Seconds for a cluster to answer.
_PATIENCE = 10


class Plan(NamedTuple):
    """How another process builds what the tasks need: a function of a module, and arguments, that can be pickled."""

    build: Callable[..., Any]
    arguments: tuple[Any, ...]


class Crew(Protocol):
    """Does work with each of many tasks."""

    def each(self, work: Work, tasks: Sequence[Any]) -> Iterator[Any]:
        """The result for each task, in the order of the tasks, as soon as it is there."""
        ...


@contextmanager
def crew(built: Any, plan: Callable[[], Plan], *, jobs: int = 1, ray: str | None = None) -> Iterator[Crew]:
    """Whoever does the work: this process, or `jobs` others, or those of a Ray cluster.

    Args:
        built: What the tasks need, for work in this process.
        plan: Says how other processes build the same; called only if there are some.
        jobs: Processes on this machine; 1: this one does it all.
        ray: The address of a Ray cluster, as `ray.init` takes it: "auto", "local", HOST:PORT or ray://HOST:PORT. Each
            machine of it needs the same version of corepress.

    Raises:
        ConfigError: If the model or the metric can't be handed to other processes.
        ResourceError: If a process or the cluster is lost.
    """
    if ray is not None:
        with _through_ray(plan(), ray) as found:
            yield found
    elif jobs > 1:
        with _in_processes(plan(), jobs) as found:
            yield found
    else:
        yield _Here(built)


class _Here:
    def __init__(self, built: Any):
        self._built = built

    def each(self, work: Work, tasks: Sequence[Any]) -> Iterator[Any]:
        return (work(self._built, task) for task in tasks)


@contextmanager
def _in_processes(plan: Plan, jobs: int) -> Iterator[Crew]:
    try:
        packed = pickle.dumps(plan)
    except Exception as error:  # whatever a class of the caller's raises
        raise ConfigError(
            f"jobs={jobs}: the model or the metric can't be handed to other processes ({error}): what is defined in a "
            "notebook or inside of a function can't; move it into a file that can be imported"
        ) from error
    import torch

    threads = max(1, min(torch.get_num_threads(), CORES // jobs))
    # Not fork: threads of PyTorch and of our own are running.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, context, _begin, (packed, threads))
    try:
        yield _Processes(executor)
    except BaseException:
        for process in list((executor._processes or {}).values()):  # as `kill_workers` of Python 3.14
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class _Processes:
    def __init__(self, executor: ProcessPoolExecutor):
        self._executor = executor

    def each(self, work: Work, tasks: Sequence[Any]) -> Iterator[Any]:
        try:
            yield from _in_order([self._executor.submit(_do, work, task) for task in tasks])
        except BrokenProcessPool as error:
            raise ResourceError(
                "one of the processes of jobs= ended before its work was done, maybe for want of memory: use fewer"
            ) from error


def _in_order(futures: Iterable[Future[Any]]) -> Iterator[Any]:
    return (future.result() for future in futures)


# In a worker: what its tasks need, and for whom it was built.
_built: tuple[str, Any] | None = None
_packed = b""


def _begin(packed: bytes, threads: int) -> None:
    """In a new process: get ready to build at the first task, so that what goes wrong is the error of a task."""
    global _packed
    _packed = packed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that began it ends it
    threading.Thread(target=_follow_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _follow_parent() -> None:
    """End with the process that began this one, even where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(work: Work, task: Any) -> Any:
    return work(_once("", lambda: pickle.loads(_packed)), task)


def _once(owner: str, plan: Callable[[], Plan]) -> Any:
    """What was built for `owner`; for another one it is built anew."""
    global _built
    if _built is None or _built[0] != owner:
        _built = None
        build, arguments = plan()
        _built = owner, build(*arguments)
    return _built[1]


@contextmanager
def _through_ray(plan: Plan, address: str) -> Iterator[Crew]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours tells nobody of itself
    with importing("a search on a cluster"):
        import ray
    own = not ray.is_initialized()
    if own:
        _check_reachable(address)
        with _own_signals():
            try:
                ray.init(address, include_dashboard=False if address == "local" else None, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ResourceError(f"ray={address!r}: no cluster can be reached there: {error}") from error
    try:
        try:
            held = ray.put(plan)
        except Exception as error:  # whatever a class of the caller's raises
            raise ConfigError(
                f"ray={address!r}: the model or the metric can't be handed to other machines: {error}"
            ) from error
        yield _Cluster(ray, held)
    finally:
        if own:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ResourceError where nobody listens: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(f"ray={address!r}: no cluster can be reached there: {error}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """SIGTERM goes on meaning what it did, which Ray would change."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Cluster:
    """Tasks of Ray. One whose machine is lost is done again on another one; Ray keeps the plan, and carries it."""

    def __init__(self, ray: Any, plan: Any):
        self._ray, self._plan, self._owner = ray, plan, uuid.uuid4().hex
        self._remote = ray.remote(max_retries=-1, num_cpus=1)(_on_machine)

    def each(self, work: Work, tasks: Sequence[Any]) -> Iterator[Any]:
        # The plan in a list: so Ray hands over its name, and a process fetches it only to build.
        running = [self._remote.remote([self._plan], self._owner, __version__, work, task) for task in tasks]
        try:
            for one in running:
                yield self._ray.get(one)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise ResourceError(f"the cluster of ray= was lost: {error}") from error
        finally:
            for one in running:
                self._ray.cancel(one, force=False)


def _on_machine(held: list[Any], owner: str, version: str, work: Work, task: Any) -> Any:
    """In a process of a cluster: do one task."""
    with importing("a search on a cluster"):
        import ray

    if version != __version__:
        raise ConfigError(
            f"a machine of ray= has corepress {__version__}, and not {version}: install the same everywhere"
        )
    return work(_once(owner, lambda: ray.get(held[0])), task)
