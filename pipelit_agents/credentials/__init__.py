"""Credentials: named, encrypted secrets that are open only while the node that needs them runs."""
