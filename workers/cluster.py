"""The local Ray cluster: started when it is needed, it lives and dies with the process that did so.

Ray takes half a second to import, and reads its settings then: it is imported where it is needed.
"""

import os
import secrets
import socket
from dataclasses import dataclass

NAMESPACE = "archsmith"
SETTINGS = {
    # whole packages only: ours are found by the driver's path, which is not known yet
    "RAY_preload_python_modules": "torch,ray.tune",
    "RAY_prestart_worker_first_driver": "0",  # these would lack the environment that Tune asks for
    "RAY_idle_worker_killing_time_threshold_ms": "600000",  # else soon after trials take all processors
}


def choose_secret() -> None:
    """Sets the secret of a local cluster, for this process and those it starts; before Ray is imported."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


class RayNotStarted(RuntimeError):
    """The message says why, as far as Ray does."""


@dataclass(frozen=True)
class LocalRay:
    address: str
    raylet: str
    """The socket of the process that starts all others; what lacks it never runs anything again."""

    @classmethod
    def start(cls, cpus: int) -> "LocalRay":
        """A cluster of so many processors. Raises RayNotStarted."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray

        try:
            context = ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="WARNING",
            )
        except Exception as error:
            raise RayNotStarted(f"the local Ray did not start: {error}") from error
        return cls(context.address_info["address"], context.address_info["raylet_socket_name"])

    def runs(self) -> bool:
        """Asked of the raylet itself: Ray's own tables know of its death only after 17 seconds."""
        with socket.socket(socket.AF_UNIX) as door:
            return door.connect_ex(self.raylet) == 0

    def stop(self) -> None:
        import ray

        ray.shutdown()
