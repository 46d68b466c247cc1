"""Signals by polling and by Redis: a waiter always comes back, and Redis may die and return."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import pytest
import redis

from server.store.signals import Polling, RedisSignals, Signals, make_signals


class RedisServer(Protocol):
    """The fixture's server."""

    url: str

    def start(self) -> None: ...

    def kill(self) -> None: ...


LONG = 600.0  # seconds: a waiter that is not woken outlasts the test's own limit
TRIES = 600
TRY_SECONDS = 0.05


@pytest.fixture(params=["polling", "redis"])
def signals(request: pytest.FixtureRequest) -> Signals:
    return make_signals(request.getfixturevalue("redis_url") if request.param == "redis" else None)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(TRIES):
        if condition():
            return
        time.sleep(TRY_SECONDS)
    raise AssertionError("it never came to that")


def start_waiting(signals: Signals, topic: str) -> threading.Thread:
    waiter = threading.Thread(target=signals.wait, args=(topic, LONG), daemon=True)
    waiter.start()
    return waiter


def subscribed(url: str) -> Callable[[], bool]:
    """Asks Redis itself whether somebody listens."""

    def ask() -> bool:
        with redis.Redis.from_url(url) as client:
            return bool(client.pubsub_numpat())

    return ask


def test_the_url_decides_between_polling_and_redis(redis_url: str) -> None:
    assert isinstance(make_signals(None), Polling)
    assert isinstance(make_signals(redis_url), RedisSignals)


def test_a_waiter_comes_back_when_its_topic_is_notified(signals: Signals) -> None:
    waiters = [start_waiting(signals, "job") for _ in range(3)]

    def all_are_back() -> bool:
        signals.notify("job")
        return not any(waiter.is_alive() for waiter in waiters)

    until(all_are_back)


def test_a_waiter_comes_back_after_its_time_without_any_notification(signals: Signals) -> None:
    signals.wait("nothing ever happens", 0.01)
    signals.wait("nothing ever happens", 0.01)


def test_processes_wake_each_other_through_redis(redis_url: str) -> None:
    one, other = make_signals(redis_url), make_signals(redis_url)
    one.wait("warm-up", 0.01)
    until(subscribed(redis_url))
    waiter = start_waiting(one, "job")

    def is_back() -> bool:
        other.notify("job")
        return not waiter.is_alive()

    until(is_back)


def test_redis_wakes_only_those_who_wait_for_the_topic(redis_url: str) -> None:
    signals = make_signals(redis_url)
    signals.wait("warm-up", 0.01)
    until(subscribed(redis_url))
    mine, others = start_waiting(signals, "mine"), start_waiting(signals, "another")

    def mine_is_back() -> bool:
        signals.notify("mine")
        return not mine.is_alive()

    until(mine_is_back)
    assert others.is_alive()


def test_a_redis_that_dies_lets_the_waiters_go_and_its_return_is_noticed(redis_server: RedisServer) -> None:
    signals = make_signals(redis_server.url)
    signals.wait("warm-up", 0.01)
    until(subscribed(redis_server.url))
    waiter = start_waiting(signals, "job")
    redis_server.kill()
    until(lambda: not waiter.is_alive())

    for _ in range(3):  # as without Redis: nothing is raised, and a waiter comes back by itself
        signals.notify("job")
        signals.wait("job", LONG)

    redis_server.start()

    def noticed() -> bool:
        signals.wait("job", 0.01)
        return subscribed(redis_server.url)()

    until(noticed)
    waiter = start_waiting(signals, "job")

    def is_back() -> bool:
        signals.notify("job")
        return not waiter.is_alive()

    until(is_back)


def test_a_redis_that_was_never_there_is_like_none() -> None:
    signals = make_signals("redis://127.0.0.1:1/0")
    signals.notify("job")
    signals.wait("job", LONG)
