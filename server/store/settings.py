"""Where the shared room is: settings that server and workers must agree on.

Read from the environment (`ARCHSMITH_...`) and from a TOML file (`archsmith.toml`, or the one that
`ARCHSMITH_CONFIG` names); the environment wins.
"""

import os
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from server.store.artifacts import ArtifactStore
from server.store.engine import make_engine
from server.store.signals import make_signals
from server.store.store import Store


class StoreSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ARCHSMITH_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    data_dir: Path = Path("var")
    """Folder of the embedded topology: database, artifacts, caches."""
    database_url: SecretStr = SecretStr("")
    """`postgresql+psycopg://...` or `sqlite:///...`; empty for a SQLite file in the data folder."""
    redis_url: SecretStr = SecretStr("")
    """Wake-ups and live updates between hosts; empty to poll the database."""
    artifacts_url: str = ""
    """Any fsspec URL; empty for a folder in the data folder."""
    data_root: Path | None = None
    """Folder with the data sets and tables that are not bundled."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = os.environ.get("ARCHSMITH_CONFIG")
        if named and not Path(named).exists():
            raise ValueError(f"ARCHSMITH_CONFIG names {named}, and there is no such file")
        file = Path(named or "archsmith.toml")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    def engine_url(self) -> str:
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_dir.absolute()}/archsmith.db"

    def store(self) -> Store:
        return Store(make_engine(self.engine_url()), make_signals(self.redis_url.get_secret_value() or None))

    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(self.artifact_root())

    def artifact_root(self) -> str:
        return self.artifacts_url or str(self.data_dir.absolute() / "artifacts")
