"""Tables that a coordinator's file and a device's have in common."""

from typing import Annotated

from pydantic import Field

from fedmesh.configuration.section import Section
from fedmesh.configuration.values import Dialled, Listen, PathValue, Port

__all__ = ["BrokerSection", "IdentitySection", "IssuerSection", "MetricsSection"]


class IdentitySection(Section):
    """Who this party is."""

    folder: PathValue
    """As ``fedmesh enroll --dir`` or ``fedmesh ca server --out`` made it."""


class BrokerSection(Section):
    """The MQTT broker."""

    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:-]+$")]
    """As its certificate names it."""
    port: Port = 8883


class IssuerSection(Section):
    """Where certificates are renewed and fresh lists fetched."""

    address: Dialled | None = None
    """None: what the identity's folder remembers of the enrolment."""


class MetricsSection(Section):
    """Where Prometheus scrapes: ``/metrics``, ``/healthz``, ``/readyz``."""

    listen: Listen | None = None
    """None: nowhere. Without TLS and without a password: keep it on loopback or on a network of your own."""
