"""Retinue: a self-hosted server that runs teams of AI agents on a durable, replayable ledger of events."""

__version__ = "0.1.0"
