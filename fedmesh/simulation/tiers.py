"""The two client apps of a simulated federation with lite devices, as one: a device gets the app of its tier."""

from collections.abc import Collection, Sequence
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedmesh.flower.identity import acting_as
from fedmesh.flower.node import ClientCallable

__all__ = ["LITE", "TieredApp"]

LITE = "lite"
"""Entry point of the client app of lite devices, whatever that of the others is."""


class TieredApp:
    """Runs `lite` for the devices of `partitions`, and `full` for all others.

    Attributes:
        cohort_size: of the full app; lite devices that come with them train one by one.
    """

    def __init__(self, full: Any, lite: ClientCallable, partitions: Collection[int]) -> None:
        self._full = full
        self._lite = lite
        self._partitions = frozenset(partitions)
        self.cohort_size: int = getattr(full, "cohort_size", 1)

    def __call__(self, message: Message, context: Context) -> Message:
        """One device."""
        app: ClientCallable = self._lite if self._is_lite(context) else self._full
        return app(message, context)

    def train_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[RecordDict | Exception]:
        """Contents of the replies to train messages, in order; a device that failed has an exception."""
        together = [i for i, context in enumerate(contexts) if not self._is_lite(context)]
        found: dict[int, RecordDict | Exception] = {}
        if together:
            contents = self._full.train_cohort([messages[i] for i in together], [contexts[i] for i in together])
            found = dict(zip(together, contents, strict=True))
        return [
            found[i] if i in found else self._alone(message, context)
            for i, (message, context) in enumerate(zip(messages, contexts, strict=True))
        ]

    def _alone(self, message: Message, context: Context) -> RecordDict | Exception:
        try:
            with acting_as(context.run_id, context.node_id):
                return self._lite(message, context).content
        except Exception as error:  # noqa: BLE001 - one device's failure is its own reply, not its neighbours'
            return error

    def _is_lite(self, context: Context) -> bool:
        return context.node_config.get("partition-id") in self._partitions
