"""How the control plane is served."""

import ipaddress

from pydantic import Field, SecretStr, model_validator

from server.store.settings import StoreSettings


class ServerSettings(StoreSettings):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr = SecretStr("")
    """Asked of every client, as `Authorization: Bearer KEY`. Needed when bound to more than this machine."""

    @model_validator(mode="after")
    def _guarded(self) -> "ServerSettings":
        if not self.api_key.get_secret_value() and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines, and no API key is set: "
                "set ARCHSMITH_API_KEY, or bind to 127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
