"""Where the shared room is: settings that server and workers must agree on.

Read from the environment (`ARCHSMITH_...`) and from a TOML file (`archsmith.toml`, or the one that
`ARCHSMITH_CONFIG` names); the environment wins.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

import search_spaces
from search_spaces import InvalidSpace
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
    space_files: Annotated[tuple[Path, ...], NoDecode] = ()
    """Python files that each define a search space as `SPACE`, separated by colons; they are run. Every host
    that serves, works or runs trials must have them at the same place."""

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

    @field_validator("space_files", mode="before")
    @classmethod
    def _separated(cls, given: object) -> object:
        return [part for part in given.split(os.pathsep) if part] if isinstance(given, str) else given

    def add_spaces(self) -> None:
        """Makes the operator's search spaces known in this process. Raises ValueError, naming the file."""
        try:
            search_spaces.add_files(self.space_files)
        except (OSError, InvalidSpace) as error:
            raise ValueError(f"space_files: {error}") from error

    def engine_url(self) -> str:
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_dir.absolute()}/archsmith.db"

    def store(self) -> Store:
        return Store(make_engine(self.engine_url()), make_signals(self.redis_url.get_secret_value() or None))

    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(self.artifact_root())

    def artifact_root(self) -> str:
        return self.artifacts_url or str(self.data_dir.absolute() / "artifacts")


def explained(error: ValueError) -> str:
    """A settings error as one line per field; any other as it is."""
    if not isinstance(error, ValidationError):
        return str(error)
    lines = (
        ": ".join([*map(str, entry["loc"]), entry["msg"].removeprefix("Value error, ")])
        for entry in error.errors()
    )
    return "; ".join(lines)
