"""Which run of the store a task goes on with, and whose its folder is.

An operator who starts a coordinator again means: go on. One who has changed the task, or says so (``--again``), begins
a new run beside the earlier ones, unless one is under way that would be lost by it: devices have paid for that.
"""

from pathlib import Path

from fedmesh.coordinator import RunInfo, RunState, RunStore
from fedmesh.errors import ConfigError
from fedmesh.federation.directory import ID_FILE
from fedmesh.files import read_bounded, write_atomically
from fedmesh.fleet.plan import Plan, digest_of

__all__ = ["chosen_run", "own_folder"]

_OVER = {RunState.FINISHED, RunState.FAILED, RunState.STOPPED}


def chosen_run(store: RunStore, plan: Plan, folder: Path, *, again: bool = False) -> RunInfo:
    """The newest run of the task, or a new one.

    Args:
        store: of runs. plan: the task. folder: where the task's newest run has its files.
        again: begin a new run, whatever there is; one that was under way is marked as stopped.

    Raises:
        ConfigError: the newest run is under way with another scenario, the folder is of a run that is not in the store,
            the store cannot be used, or another coordinator has the run.
    """
    runs = [run for run in store.runs() if run.name == plan.name]
    newest = runs[0] if runs else None
    if not again:
        _check_known(folder, {run.key for run in runs}, store.name)
    if newest is not None:
        if again:
            _give_up(store, newest)
        elif digest_of(newest.scenario) == plan.digest:
            return newest
        elif newest.state not in _OVER and newest.committed > 0:
            raise ConfigError(
                f"the task {plan.name!r} has begun as run {newest.key[:8]} with another scenario, rounds or number of "
                f"devices than it has now: put them back, give the task another name, or end that run with: fedmesh "
                f"runs stop {newest.key[:8]}"
            )
    return store.info(store.create(plan.name, plan.scenario.model_dump(mode="json"), plan.scenario.rounds))


def own_folder(folder: Path, run: RunInfo) -> None:
    """Makes `folder` that of `run`: an earlier run's is kept beside it, as ``NAME.ID``.

    Raises:
        ConfigError: the folder cannot be used, or the run has begun and its folder is gone.
    """
    found = _id_in(folder)
    if found == run.key:
        return
    if run.committed >= 0:
        raise ConfigError(
            f"{folder} is not that of run {run.key[:8]}, which has begun: put it back, or begin anew with --again"
        )
    try:
        if folder.exists() and any(folder.iterdir()):
            folder.rename(folder.with_name(f"{folder.name}.{found[:8] or 'before-' + run.key[:8]}"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the run directory {folder} cannot be made: {error.strerror}") from error
    write_atomically(folder / ID_FILE, run.key.encode())


def _check_known(folder: Path, keys: set[str], store: str) -> None:
    found = _id_in(folder)
    if found and found not in keys:
        raise ConfigError(
            f"{folder} is of run {found[:8]}, which is not in the journal {store}: put [journal] url back, or begin "
            "anew with --again"
        )


def _give_up(store: RunStore, run: RunInfo) -> None:
    if run.state not in _OVER:
        with store.journal(run.id) as journal:
            journal.write_run(state=RunState.STOPPED.value, reason="another was begun in its place")


def _id_in(folder: Path) -> str:
    """The run that the folder is of; empty: it does not say."""
    path = folder / ID_FILE
    return read_bounded(path, 64).decode("ascii", errors="replace") if path.exists() else ""
