"""The folder of this example: its key, its accounts, and a stand-in for Alice's phone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyotp
from dotenv import dotenv_values

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import ConfigurationError

HERE = Path(__file__).parent
KEY = "FIELD_ENCRYPTION_KEY"
# Seconds that a code of an authenticator app is displayed.
PERIOD = 30


def open_folder(folder: Path) -> Pipelit:
    """Open the database of a folder, and make the key, the tables and the accounts it lacks.

    The names of the files are the defaults of ``pipelit-agents``, so that its commands work in
    the folder.
    """
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


class Phone:
    """A person's authenticator app, for readers who want to try the example without a phone.

    A real person scans the QR code of ``pipelit-agents mfa enroll``, and the seed is on the phone
    alone. This one keeps it in a file, together with the step of the last code.
    """

    def __init__(self, pipelit: Pipelit, person: str, file: Path) -> None:
        self._file = file
        if not pipelit.mfa.status(person).on:
            uri = pipelit.mfa.enroll(person).get_secret_value()
            self._write(uri, 0)
            pipelit.mfa.confirm(person, self.next_code())

    def next_code(self) -> str:
        """Return a code that wasn't used yet. This may wait for it, for half a minute at most.

        Raises:
            ConfigurationError: The person's second factor isn't this phone.
        """
        if not self._file.exists():
            raise ConfigurationError(
                f"there is no {self._file.name}, as this person has another authenticator app: "
                "run research.py --wait, and approve with a code of that app"
            )
        kept = json.loads(self._file.read_text())
        now = int(time.time()) // PERIOD
        step = max(kept["step"] + 1, now)
        # A code is accepted one step early, because clocks differ.
        if step > now + 1:
            time.sleep((step - 1) * PERIOD - time.time())
        self._write(kept["uri"], step)
        return pyotp.TOTP(pyotp.parse_uri(kept["uri"]).secret).generate_otp(step)

    def _write(self, uri: str, step: int) -> None:
        self._file.touch(0o600)
        self._file.write_text(json.dumps({"uri": uri, "step": step}))
