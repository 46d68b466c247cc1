"""Wake-ups: "look now". What there is to see is in the database; a lost signal costs only a poll."""

import threading
import time
from typing import Protocol

import redis

POLL_SECONDS = 0.2
AWAY_SECONDS = 5.0  # how long a Redis that failed is not written to


class Signals(Protocol):
    """Tells the processes that share a database that something has changed."""

    def notify(self, topic: str) -> None: ...

    def wait(self, topic: str, timeout: float) -> None:
        """Returns when `topic` was notified, or after `timeout` seconds; may also return early."""
        ...


class Polling:
    """No channel at all: whoever waits looks again after a short while."""

    def notify(self, topic: str) -> None:
        pass

    def wait(self, topic: str, timeout: float) -> None:
        time.sleep(min(timeout, POLL_SECONDS))


class RedisSignals:
    """Redis publish/subscribe. While Redis is away it falls back to polling.

    One subscription serves every waiter of this process.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        self._changed = threading.Condition()
        self._seen: dict[str, int] = {}
        self._listening = False
        self._listener: threading.Thread | None = None
        self._away_until = 0.0

    def notify(self, topic: str) -> None:
        if time.monotonic() < self._away_until:
            return  # a host that is gone takes seconds to fail, and every write of the store comes by here
        try:
            self._redis.publish(f"archsmith:{topic}", "")
        except redis.RedisError:
            self._away_until = time.monotonic() + AWAY_SECONDS  # waiters poll meanwhile

    def wait(self, topic: str, timeout: float) -> None:
        self._start_listening()
        if not self._listening:
            time.sleep(min(timeout, POLL_SECONDS))
            return
        with self._changed:
            before = self._seen.get(topic, 0)
            self._changed.wait_for(lambda: self._seen.get(topic, 0) != before or not self._listening, timeout)

    def _start_listening(self) -> None:
        with self._changed:
            if self._listener is None or not self._listener.is_alive():
                self._listener = threading.Thread(target=self._listen, daemon=True, name="signals")
                self._listener.start()
                self._changed.wait(timeout=1.0)

    def _listen(self) -> None:
        try:
            with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
                subscription.psubscribe("archsmith:*")
                self._set_listening(True)
                while True:
                    message = subscription.get_message(timeout=1.0)
                    if message is not None:
                        self._mark(message["channel"].decode().removeprefix("archsmith:"))
        except redis.RedisError:
            time.sleep(POLL_SECONDS)
        finally:
            self._set_listening(False)

    def _mark(self, topic: str) -> None:
        with self._changed:
            self._seen[topic] = self._seen.get(topic, 0) + 1
            self._changed.notify_all()

    def _set_listening(self, listening: bool) -> None:
        with self._changed:
            self._listening = listening
            self._changed.notify_all()


def make_signals(redis_url: str | None) -> Signals:
    return RedisSignals(redis_url) if redis_url else Polling()
