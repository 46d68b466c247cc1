"""How this worker works: compute, leases, and the language model's endpoint. Set by the operator only."""

import os
import socket
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from server.store.settings import StoreSettings
from workers.llm import full_url


class WorkerSettings(StoreSettings):
    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    worker_slots: int = Field(2, ge=1)
    """Jobs that this worker drives at a time."""
    lease_seconds: float = Field(15.0, gt=1)
    """How long a silent worker keeps its job."""
    ray_address: str = ""
    """A running Ray cluster that this host has joined (`host:6379`); empty to start a local one."""
    ray_grows: bool = True
    """Whether a running cluster may get hosts that it lacks: a job that asks for more than there is then
    waits for them, and fails at once where it may not. A local cluster never grows."""
    ray_cpus: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processors of the local Ray cluster."""
    device: str = "auto"
    """Where trials compute: `cpu`, `cuda`, or `auto` for a GPU where there is one."""

    llm_base_url: str = ""
    """An OpenAI-compatible endpoint; empty for OpenAI's own."""
    llm_api_key: SecretStr = SecretStr("")
    llm_model: str = ""
    """Name of the model; empty for none, and evolution proposes instead."""
    llm_timeout_s: float = Field(60.0, gt=0)
    """For one call, from the connection to the reply's last byte."""
    llm_reply_tokens: int = Field(4096, ge=64)
    """The longest reply that is asked for. A budget keeps as much in reserve for every call."""
    llm_price_prompt: float = Field(0.0, ge=0)
    """US dollars per million prompt tokens."""
    llm_price_completion: float = Field(0.0, ge=0)
    """US dollars per million completion tokens."""

    @field_validator("llm_base_url")
    @classmethod
    def _whole(cls, url: str) -> str:
        return full_url(url) if url else url

    @field_validator("ray_address")
    @classmethod
    def _joined(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                "Ray Client (ray://) cannot run searches: let this host join the cluster by "
                "`ray start --address=HOST:6379`, and give HOST:6379"
            )
        return address

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def cache(self) -> Path:
        return self.data_dir.absolute() / "cache"
