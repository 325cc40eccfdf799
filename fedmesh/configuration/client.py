"""The file of ``fedmesh client run``: who the device is, what it has, and what it will and will not do."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from fedmesh.configuration.learner import LearnerSections, Tier
from fedmesh.configuration.section import Section
from fedmesh.configuration.shared import BrokerSection
from fedmesh.configuration.values import Listen, PartyName, PathValue, Share

__all__ = ["ClientConfig", "InferenceSection", "StateSection"]


class StateSection(Section):
    """What the device remembers: journal, spool, ledgers, and where nothing else is said models and metadata."""

    folder: PathValue


class InferenceSection(Section):
    """Models that run here."""

    listen: Listen | None = None
    """Where ``/predict`` is served; None: nowhere. Elsewhere than on the loopback: by mutual TLS."""
    threshold: Share = 0.0
    """Confidence below which an answer is marked as unsure, and handed off where somebody is named."""
    handoff_peer: PartyName | None = None
    """Who answers there; needed where the URL begins with https."""
    handoff: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2000)] | None = None
    """URL of a bigger model's ``/predict``. It sees the examples that are handed off."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.handoff is not None and self.threshold == 0:
            raise ValueError("handoff names a model, and threshold is 0: nothing would be handed off, so raise it")
        if (self.handoff or "").startswith("https:") and self.handoff_peer is None:
            raise ValueError("handoff is asked over TLS, and handoff_peer is missing: name who answers there")
        return self


class ClientConfig(LearnerSections):
    """A device."""

    broker: BrokerSection
    coordinators: Annotated[tuple[PartyName, ...], Field(strict=False, min_length=1)] = ("coordinator",)
    """Whom it listens to; nobody else is answered."""
    state: StateSection
    tier: Tier = "full"
    """``full``: trains with torch. ``lite``: a head on fixed features, without torch. ``inference``: never trains."""
    inference: InferenceSection | None = None
    """None: no model is served here."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.tier != "inference" and self.data is None:
            raise ValueError(f"tier is {self.tier!r}, and [data] is missing: say what the device trains on")
        if self.tier == "inference" and self.data is not None:
            raise ValueError("tier is 'inference', which never trains, and there is [data]: remove one of them")
        if self.tier == "inference" and self.registry is None:
            raise ValueError("tier is 'inference', and [registry] is missing: no model would ever come")
        if self.inference is not None and self.registry is None:
            raise ValueError("there is [inference], and [registry] is missing: no model would ever come")
        return self

    @property
    def state_folder(self) -> Path:
        """Where ledgers and the memory of secure aggregation are."""
        return self.state.folder
