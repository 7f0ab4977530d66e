"""The keyring: encrypts values under ``FIELD_ENCRYPTION_KEY``, each for one purpose."""

from __future__ import annotations
