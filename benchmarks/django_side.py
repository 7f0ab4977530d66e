"""django-otp's check, on SQLite in WAL with ``synchronous=NORMAL``: what ours stands beside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def device(folder: Path) -> Iterator[Callable[[], float]]:
    """A call that loads a device by its id and verifies a fresh code; the seconds that it took.

    Making the code isn't in them. The step that the device last accepted is set back first, as
    time that goes on would have it.
    """
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "django.db",
                "OPTIONS": {
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                    "transaction_mode": "IMMEDIATE",
                },
            }
        },
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django_otp",
            "django_otp.plugins.otp_totp",
        ],
        SECRET_KEY="a benchmark",  # noqa: S106 - nothing is signed with it
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        OTP_TOTP_THROTTLE_FACTOR=1,
    )
    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connection
    from django_otp.oath import TOTP
    from django_otp.plugins.otp_totp.models import TOTPDevice

    call_command("migrate", verbosity=0)
    made = TOTPDevice.objects.create(user=User.objects.create(username="alice"), name="b")

    def check() -> float:
        TOTPDevice.objects.filter(pk=made.pk).update(last_t=-1)
        totp = TOTP(made.bin_key, made.step, made.t0, made.digits, made.drift)
        totp.time = time.time()
        token = str(totp.token()).zfill(made.digits)
        start = time.perf_counter()
        accepted = TOTPDevice.objects.get(pk=made.pk).verify_token(token)
        spent = time.perf_counter() - start
        if not accepted:
            raise RuntimeError("django-otp refused a good code")
        return spent

    try:
        yield check
    finally:
        connection.close()
