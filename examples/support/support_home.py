"""The folder of this example: its encryption key, its accounts and the customers' keys."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dotenv import dotenv_values

from pipelit_agents import Keyring, Pipelit

HERE = Path(__file__).parent
KEY = "FIELD_ENCRYPTION_KEY"


def open_folder(folder: Path) -> Pipelit:
    """Open the database of a folder, and make the key, the tables and the accounts it lacks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = folder / ".env"
    if not settings.exists():
        settings.touch(0o600)
        settings.write_text(f"{KEY}={Keyring.generate_key()}\n")
    pipelit = Pipelit(
        database_url=f"sqlite:///{folder / '.pipelit' / 'agents.db'}",
        encryption_keys=[dotenv_values(settings).get(KEY) or ""],
    )
    pipelit.create_schema()
    pipelit.apply(HERE / "accounts.yaml")
    return pipelit


def new_crm_keys() -> dict[str, str]:
    """Return keys for the CRM by customer. Carol has none, as she is no customer of the CRM."""
    return {name: f"crm-{secrets.token_urlsafe(24)}" for name in ("alice", "bob")}


def store_crm_keys(pipelit: Pipelit, keys: dict[str, str], url: str) -> None:
    """Store each customer's own key under one name, and replace those of the last run."""
    for customer, key in keys.items():
        pipelit.credentials.put(
            "crm",
            key,
            kind="http",
            created_by=customer,
            person=customer,
            public={"base_url": url},
        )


def issue_login(pipelit: Pipelit, customer: str) -> str:
    """Return a new API key with which a customer calls the service for an hour."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    issued = pipelit.users.issue_api_key(customer, name="support example", expires_at=expires)
    return issued.api_key.get_secret_value()
