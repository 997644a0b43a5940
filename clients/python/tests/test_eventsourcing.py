"""The tests that the package `eventsourcing` has for its recorders, over streams of pg_outbox.

The package runs these classes over its own module for PostgreSQL. An aggregate is a stream, an application sequence is the
feed, and a tracking record is a cursor. One class is left out, `NonInterleavingNotificationIDsBaseCase`: it wants the events
of one call to have positions in a row even if another call appends at the same time. In the feed, the events of a stream
ascend, and events of other streams may be in between. The classes for infrastructure factories are about a module of the
package and store nothing.
"""

import time
import uuid

import psycopg
import psycopg_pool
import pytest
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)
from eventsourcing.tests import persistence as suites
from psycopg.types.json import Jsonb

CONFLICTS = ("OB013", "OB005")
APPEND = "select first_version, last_version from outbox.append_bytes(%s, %s, %s, expected_version => %s, metadata => %s)"
# The number that the package gives an event. Its aggregates begin at 0 or at 1, and streams at 1.
NUMBER = "(metadata ->> 'originator_version')::int"


def stream_of(originator_id):
    return f"aggregate-{originator_id}"


class Aggregates(AggregateRecorder):
    def __init__(self, pool):
        self.pool = pool

    def insert_events(self, stored_events, **kwargs):
        self.write(stored_events, kwargs.get("tracking"))

    def write(self, stored_events, tracking=None):
        """Appends in one transaction. Returns the stream and the versions of each call of append."""
        streams = {}
        for event in stored_events:
            streams.setdefault(stream_of(event.originator_id), []).append(event)
        try:
            with self.pool.connection() as conn:
                if tracking is not None:
                    self.track(conn, tracking)
                # in one order, so that two calls are no deadlock
                return [self.append(conn, stream, streams[stream]) for stream in sorted(streams)]
        except psycopg.Error as error:
            if error.sqlstate in CONFLICTS:
                raise IntegrityError(str(error)) from error
            raise

    def append(self, conn, stream, events):
        numbers = [event.originator_version for event in events]
        last = conn.execute(f"select version, {NUMBER} from outbox.load(%s, null, 1, true)", [stream]).fetchone()
        first = last[1] + 1 if last else numbers[0]
        if numbers != list(range(first, first + len(numbers))):
            raise IntegrityError(f"the versions {numbers} do not continue {stream}")
        return stream, *conn.execute(APPEND, [
            stream, [event.topic for event in events], [event.state for event in events], last[0] if last else 0,
            [Jsonb({"originator_version": number}) for number in numbers],
        ]).fetchone()

    def select_events(self, originator_id, *, gt=None, lte=None, desc=False, limit=None):
        stream = stream_of(originator_id)
        with self.pool.connection() as conn:
            first = conn.execute(f"select version - {NUMBER} from outbox.load(%s, null, 1)", [stream]).fetchone()
            if first is None:
                return []
            low = 1 if gt is None else gt + 1 + first[0]
            high = 2**62 if lte is None else lte + first[0]
            rows = conn.execute(
                f"select {NUMBER}, type, body from outbox.load(%s, %s, %s, %s) where version between %s and %s",
                [stream, high if desc else low, 10000 if limit is None else limit, desc, low, high],
            ).fetchall()
        return [StoredEvent(originator_id=originator_id, originator_version=n, topic=topic, state=state) for n, topic, state in rows]


class Applications(Aggregates, ApplicationRecorder):
    def insert_events(self, stored_events, **kwargs):
        positions = []
        for stream, first, last in self.write(stored_events, kwargs.get("tracking")):
            positions += self.positions(stream, first, last)
        return sorted(positions)

    def positions(self, stream, first, last):
        """Waits until the events have their positions."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with self.pool.connection() as conn:
                found = conn.execute(
                    "select position from outbox.load(%s, %s, %s, positions => true)", [stream, first, last - first + 1]
                ).fetchall()
            if all(position for position, in found):
                return [position for position, in found]
            time.sleep(0.001)
        raise TimeoutError(stream)

    def select_notifications(self, start, limit, stop=None, topics=(), *, inclusive_of_start=True):
        after = max((start or 0) - inclusive_of_start, 0)
        found = []
        while len(found) < limit:
            with self.pool.connection() as conn:
                rows = conn.execute(
                    f"select position, stream, {NUMBER}, type, body from outbox.read_events(%s, %s, types => %s)",
                    [after, limit - len(found), list(topics) or None],
                ).fetchall()
            found += [row for row in rows if row[1] and (stop is None or row[0] <= stop)]
            if not rows or stop is not None and rows[-1][0] >= stop:
                break
            after = rows[-1][0]
        return [
            Notification(id=position, originator_id=uuid.UUID(stream.partition("-")[2]), originator_version=n, topic=topic, state=state)
            for position, stream, n, topic, state in found
        ]

    def max_notification_id(self):
        with self.pool.connection() as conn:
            return conn.execute("select nullif(outbox.head(), 0)").fetchone()[0]

    def subscribe(self, gt=None, topics=()):
        return Following(self, gt, topics)


class Following(Subscription):
    """Reads page by page, and waits a little when there is nothing new."""

    page = ()

    def __next__(self):
        while not self._has_been_stopped:
            if self.page:
                first, *self.page = self.page
                self._last_notification_id = first.id
                return first
            self.page = self._recorder.select_notifications(
                self._last_notification_id, 100, topics=self._topics, inclusive_of_start=False
            )
            if not self.page:
                time.sleep(0.01)
        raise StopIteration


class Processes(Applications, ProcessRecorder):
    """A tracking record is a cursor in the transaction of its events, and only moves forward."""

    def track(self, conn, tracking: Tracking):
        advanced = conn.execute(
            "select advanced from outbox.cursor_advance(%s, %s, stream => 'tracking')", [tracking.application_name, tracking.notification_id]
        ).fetchone()
        if not advanced[0]:
            raise IntegrityError(f"{tracking} is recorded already")

    def insert_tracking(self, tracking):
        self.write([], tracking)

    def max_tracking_id(self, application_name):
        with self.pool.connection() as conn:
            return conn.execute(
                "select nullif(position, 0) from outbox.cursor_get(%s, stream => 'tracking', if_missing => 0)", [application_name]
            ).fetchone()[0]


class Recorded:
    recorder = Processes

    @pytest.fixture(autouse=True)
    def connections(self, dsn):
        # as many connections as the tests have threads
        with psycopg_pool.ConnectionPool(dsn, min_size=2, max_size=14, open=True) as pool:
            self.pool = pool
            yield

    def create_recorder(self):
        return self.recorder(self.pool)


class TestAggregateRecorder(Recorded, suites.AggregateRecorderTestCase):
    recorder = Aggregates


class TestApplicationRecorder(Recorded, suites.ApplicationRecorderTestCase):
    recorder = Applications

    # The package calls it "optional", because some of its databases cannot wait. Its PostgreSQL can.
    def test_insert_subscribe(self):
        self.optional_test_insert_subscribe()


class TestTrackingRecorder(Recorded, suites.TrackingRecorderTestCase):
    pass


class TestProcessRecorder(Recorded, suites.ProcessRecorderTestCase):
    pass
