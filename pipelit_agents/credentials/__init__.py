"""Credentials: named, sealed secrets that open only while the node that needs them runs."""
