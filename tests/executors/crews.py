"""Workers that compute nothing and are lost when a test says so."""

from __future__ import annotations

from types import SimpleNamespace

from rightrank.executors.links import WorkerLostError
from rightrank.executors.worker import Answer

FACTS = SimpleNamespace(fingerprint="abc", dtype_name="float32", name="model")


class Link:
    def __init__(self, name, number, behave):
        self.name, self.number, self.behave = name, number, behave
        self.asked = []
        self.open = True

    def send(self, method, *arguments):
        self.asked.append((method, *arguments))

    def take(self):
        return self.behave(self, *self.asked[-1])

    def close(self):
        self.open = False


class Scripted:
    """``behave(link, method, *arguments)`` gives an Answer or raises WorkerLostError; ``rooms``: workers a place can be given, in all."""

    def __init__(self, behave=None, names=("one", "two"), rooms=99):
        self.names, self.rooms = names, rooms
        self.links = []
        self.closed = False
        self.behave = behave or (
            lambda link, method, *arguments: Answer(FACTS if method == "open" else arguments)
        )

    def order(self, name):
        return f"order for {name}"

    def start(self, name):
        if sum(link.name == name for link in self.links) >= self.rooms:
            raise WorkerLostError("no room")
        self.links.append(Link(name, len(self.links), self.behave))
        return self.links[-1]

    def wait(self, links, seconds):
        """The one that has waited longest: nothing comes together."""
        assert links and all(link.open for link in links)
        return [min(links, key=lambda link: (len(link.asked), link.number))]

    def share(self, value):
        return value

    def close(self):
        self.closed = True
