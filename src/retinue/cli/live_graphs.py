"""Plans that move in the terminal while they go on; where nothing can move, a line for each thing that happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from retinue.cli.graph import Graph
from retinue.cli.graph_view import GraphView, turning
from retinue.cli.screen import Screen, plain
from retinue.cli.transcript import Transcript

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_TURNS_A_SECOND = 8
_LINES_LEFT_FREE = 3
_FEWEST_LINES = 4


class LiveGraphs:
    """Shows plans while they go on. Each is drawn once more, to stay, when it has ended."""

    def __init__(self, screen: Screen, transcript: Transcript) -> None:
        self._screen = screen
        self._transcript = transcript
        self._graphs: list[Graph] = []
        self._words = ""
        self._live: Live | None = None
        self.moves = screen.err.is_terminal and not screen.err.is_dumb_terminal
        """Whether lines can be drawn again in place."""

    def say(self, words: str) -> None:
        """Show that something takes a while; nothing: it is over."""
        if self.moves:
            self._words = plain(words)
            self._update()
        elif words:
            self._transcript.step(words)

    def step(self, words: str) -> None:
        """Say what has happened, where the drawing does not show it."""
        if words and not self.moves:
            self._transcript.step(words)

    def begin(self, graph: Graph, *, drawn: bool = True) -> None:
        """Show a plan from now on; ``drawn``: also where nothing moves."""
        self._words = ""
        self._graphs.append(graph)
        if not self.moves and drawn:
            self._draw(graph)
        self._update()

    def replace(self, old: Graph, new: Graph) -> None:
        """Show a plan as the server says it is."""
        self._graphs = [new if graph is old else graph for graph in self._graphs]

    def end(self, graph: Graph) -> None:
        """Draw a plan once more, to stay."""
        self._graphs = [one for one in self._graphs if one is not graph]
        with self.paused():
            self._draw(graph)

    def close(self) -> None:
        """Draw what is still shown once more, to stay."""
        self._words = ""
        for graph in list(self._graphs):
            self.end(graph)
        self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the moving picture away, so that something else can be written."""
        self._stop()
        try:
            yield
        finally:
            self._update()

    def rest(self) -> None:
        """Take the moving picture away for good: what comes now is the answer."""
        self._words = ""
        if not self._graphs:
            self._stop()

    def _draw(self, graph: Graph) -> None:
        self._transcript.close_line()
        self._screen.draw(GraphView(graph))
        if graph.ended and self.moves:
            self._screen.note()

    def _update(self) -> None:
        if not self.moves or not (self._graphs or self._words):
            self._stop()
        elif self._live is None:
            from rich.live import Live

            self._transcript.close_line()
            self._live = Live(
                console=self._screen.err,
                get_renderable=self._picture,
                refresh_per_second=_TURNS_A_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        graphs = list(self._graphs)
        room = max(_FEWEST_LINES, self._screen.err.height - _LINES_LEFT_FREE) // max(1, len(graphs))
        parts: list[RenderableType] = [GraphView(graph, moving=True, most_lines=room) for graph in graphs]
        if self._words:
            parts.append(Text(f"{turning()} {self._words}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)
