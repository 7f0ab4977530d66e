"""Accounts: people, agents and peers, their API keys and second factors."""

from __future__ import annotations
