"""A database with people who can approve, and the secret of a webhook, for tests to copy."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import pyotp
from conftest import Clock
from webhook_receiver import HOOK, SECRET

from pipelit_agents import Pipelit


class Home:
    """A file with alice and bob, who have second factors, and a signing secret."""

    def __init__(self, file: Path, key: str) -> None:
        self.file, self.key, self.apps = file, key, dict[str, pyotp.TOTP]()
        clock = Clock()
        file.chmod(0o600)
        with Pipelit(database_url=f"sqlite:///{file}", encryption_keys=[key], clock=clock) as made:
            for name in ("alice", "bob"):
                made.users.create(name)
                uri = made.mfa.enroll(name).get_secret_value()
                app = self.apps[name] = pyotp.TOTP(pyotp.parse_uri(uri).secret)
                made.mfa.confirm(name, app.at(clock()))
            made.credentials.put(HOOK, SECRET, kind="webhook", created_by="alice")

    def copy(self, file: Path) -> str:
        """Copy the file, and return the address of the copy."""
        copyfile(self.file, file)
        file.chmod(0o600)
        return f"sqlite:///{file}"
