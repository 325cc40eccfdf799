"""What an operator may do to a device's slots while it runs: stay on a version, go back, go on."""

from dataclasses import replace

from fedmesh.errors import ConfigError
from fedmesh.registry.slots import Slots
from fedmesh.registry.state import State

__all__ = ["pin", "roll_back", "rolled_back", "unpin"]


def pin(slots: Slots, version: int) -> State:
    """Keeps the device on `version`; where another runs, it is changed to this one when the device looks next.

    If that version failed here before, it is given another chance: it is an operator who says so.

    Raises: ConfigError: that is no version.
    """
    if version < 1:
        raise ConfigError(f"there is no version {version}: versions begin at 1")

    def step(state: State) -> State:
        return replace(state, pinned=version, failed=tuple(item for item in state.failed if item.version != version))

    return slots.change(step)


def unpin(slots: Slots) -> State:
    """Lets the device follow the rollout again."""
    return slots.change(lambda state: replace(state, pinned=None))


def roll_back(slots: Slots, reason: str) -> State:
    """Goes back to the version before; the one that ran is not tried again.

    Raises: ConfigError: there is none that is whole.
    """
    return slots.change(lambda state: rolled_back(state, slots, reason))


def rolled_back(state: State, slots: Slots, reason: str, *, forced: bool = False) -> State:
    """`state` with the other slot running, if its files are whole.

    Raises: ConfigError: they are not, or nothing runs; unless `forced`: then nothing runs.
    """
    other = state.spare
    if not state.active:
        if forced:
            return state
        raise ConfigError("nothing runs here: there is nothing to go back from")
    if state[other].state == "good" and not slots.is_whole(other):
        state = state.refused(other, "its files are not those that were installed", remember=False)
    if state[other].state != "good" and not forced:
        raise ConfigError(f"version {state.running.version} is the only good one here: there is nothing to go back to")
    return state.refused(state.active, reason)
