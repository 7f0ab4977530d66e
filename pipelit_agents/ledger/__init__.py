"""The ledger: the one place that counts failed attempts and spends codes, atomically."""
