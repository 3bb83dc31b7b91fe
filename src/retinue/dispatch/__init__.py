"""Wake-ups, workers and takeover. The only room that knows the queue's library."""

from retinue.dispatch.dispatcher import Activation, Dispatcher, HandOver, Stopped, Work
from retinue.dispatch.health import measure, other_machines
from retinue.dispatch.wakeups import WakeUp, wake

__all__ = ["Activation", "Dispatcher", "HandOver", "Stopped", "WakeUp", "Work", "measure", "other_machines", "wake"]
