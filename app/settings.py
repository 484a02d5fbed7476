"""What an operator can set: environment variables that start with UNDERSTUDY_, or a .env file."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "UNDERSTUDY_"
ENV_FILE = ".env"

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it and says what is allowed."""


class Settings(BaseSettings):
    """Every setting of the service. Each is read from UNDERSTUDY_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    host: Annotated[str, Field(min_length=1, description="Address to listen on; 0.0.0.0 lets other machines in.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    models_dir: Annotated[Path, Field(description="Folder with one bundle per subfolder.")] = Path("models")
    student: Annotated[
        str, Field(min_length=1, description="Its subfolder with the student that serves, where several are there.")
    ] = "student"
    workers: Annotated[Count, Field(description="Processes. One is best for few cores: they share no model.")] = 1
    threads: Annotated[
        int, Field(ge=0, description="Batches in flight per model and process; 0: cores divided by workers.")
    ] = 0

    max_body_bytes: Annotated[Count, Field(description="Largest request body; bounds what one client can hold.")] = (
        4 * 2**20
    )
    max_sentences: Annotated[Count, Field(description="Most sentences or pairs in a request.")] = 512
    deadline_seconds: Annotated[
        Seconds, Field(description="A request is given up after this long: a later answer helps nobody.")
    ] = 10.0
    queue_tokens: Annotated[
        Count, Field(description="Tokens that may wait for one model; beyond, requests are refused at once.")
    ] = 2**16
    lag_seconds: Annotated[
        Seconds, Field(description="While the process is this late to read requests, new ones are refused unread.")
    ] = 0.5
    batch_tokens: Annotated[Count, Field(description="Padded tokens in a batch; a longer single text runs alone.")] = (
        2048
    )
    batch_rows: Annotated[
        Count,
        Field(
            description="Rows in a batch, however short: beyond a dozen, more rows no longer give more rows a second."
        ),
    ] = 16

    shadow_rate: Annotated[
        float,
        Field(ge=0, le=1, description="Share of the student's rows that the teacher answers too, unseen; 0: none."),
    ] = 0.02
    shadow_cpu_share: Annotated[
        float,
        Field(gt=0, le=1, description="Most of the usable cores that the shadow takes; what is too much is dropped."),
    ] = 0.05

    api_key: Annotated[
        SecretStr | None,
        Field(min_length=1, description="If set, sent as a Bearer token; page, health, metrics and docs need none."),
    ] = None
    admin: Annotated[
        bool, Field(description="Serve POST /admin/reload; needs an API key, as it makes the service work.")
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="`info` writes a line for each request.")
    ] = "info"

    drain_seconds: Annotated[
        float, Field(ge=0, description="At least this long not ready before closing, so that balancers notice.")
    ] = 1.0
    drain_limit_seconds: Annotated[
        Seconds, Field(description="Requests still unanswered this long after SIGTERM are dropped.")
    ] = 30.0
    unready_after_seconds: Annotated[
        Seconds, Field(description="Not ready while a batch has been running for this long: its model hangs.")
    ] = 15.0
    dead_after_seconds: Annotated[
        Seconds, Field(description="Not alive once a batch has been running for this long: only a restart helps.")
    ] = 60.0

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.api_key and (key := self.api_key.get_secret_value()) != key.strip():
            raise ValueError(f"{PREFIX}API_KEY must not begin or end with white space: no header brings it here")
        if self.admin and self.api_key is None:
            raise ValueError(f"{PREFIX}ADMIN needs {PREFIX}API_KEY: whoever may reload must be known")
        if self.dead_after_seconds < self.unready_after_seconds:
            raise ValueError(f"{PREFIX}DEAD_AFTER_SECONDS must not be less than {PREFIX}UNREADY_AFTER_SECONDS")
        if self.drain_limit_seconds <= self.drain_seconds:
            raise ValueError(f"{PREFIX}DRAIN_LIMIT_SECONDS must be more than {PREFIX}DRAIN_SECONDS")
        return self

    def shown(self) -> dict[str, Any]:
        """Tell the effective settings, secrets hidden, for the log."""
        return self.model_dump(mode="json")


def read_settings() -> Settings:
    """Read the settings from the environment and .env.

    Raises:
        SettingsError: a value is not allowed, or a name that starts with UNDERSTUDY_ is not a setting.
    """
    _refuse_unknown(os.environ)
    _refuse_unknown(dotenv_values(ENV_FILE))
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(map(_explain, error.errors()))) from error


def _refuse_unknown(names: Iterable[str]) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    unknown = sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def _explain(problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    name = PREFIX + str(problem["loc"][0]).upper()
    return f"{name}: {problem['msg']}"
