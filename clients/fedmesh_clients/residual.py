"""Error feedback's residual in a device's Context: what quantization lost in earlier rounds.

Under secure aggregation a round can be attempted again with other survivors, and then nothing of the first attempt was
added to anything: the second starts from the residual that the first started from. So that one is kept as well.
"""

from flwr.app import Context

from fedmesh.client.assignment import Assignment, Trained
from fedmesh.client.task import Task
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.types import Float32

__all__ = ["keep_residual", "residual_in"]

_AFTER, _BEFORE = "fedmesh.residual", "fedmesh.residual-before"


def residual_in(context: Context, task: Task, number: int, size: int) -> Float32 | None:
    """What round `number` starts from, float32 [size]; None if nothing was lost so far."""
    records = context.state.array_records
    if not task.error_feedback:
        return None
    if _name(number) in records.get(_BEFORE, {}):
        found = vector(records[_BEFORE], _name(number), dtype="float32", max_bytes=4 * size)
        return found if len(found) else None
    return vector(records[_AFTER], "residual", dtype="float32", max_bytes=4 * size) if _AFTER in records else None


def keep_residual(context: Context, task: Task, assignment: Assignment, trained: Trained) -> None:
    """Keeps what the assignment's round lost."""
    if trained.residual is None:
        return
    context.state[_AFTER] = vector_record("residual", trained.residual)
    if task.secure_aggregation:
        before = trained.residual[:0] if assignment.residual is None else assignment.residual
        context.state[_BEFORE] = vector_record(_name(assignment.round), before)


def _name(number: int) -> str:
    return f"round-{number}"
