"""Frames: pieces of an answer on their way to whoever watches. Not events: nothing of them is kept for long."""

from retinue.live.bus import Frame, Live, LiveSubscription, Texts
from retinue.live.memory import MemoryLive
from retinue.live.redis import RedisLive

__all__ = ["Frame", "Live", "LiveSubscription", "MemoryLive", "RedisLive", "Texts"]
