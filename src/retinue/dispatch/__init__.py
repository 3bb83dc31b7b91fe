"""Wake-ups, workers and takeover. The only room that knows the queue's library."""

from retinue.dispatch.activation import Activation, HandOver, Stopped
from retinue.dispatch.dispatcher import Dispatcher, Work
from retinue.dispatch.health import measure, other_machines
from retinue.dispatch.wakeups import WakeUp, wake

__all__ = ["Activation", "Dispatcher", "HandOver", "Stopped", "WakeUp", "Work", "measure", "other_machines", "wake"]
