"""The programs of EVENTS.md run as they are written."""

import pathlib
import re

import pg_outbox
import psycopg
from pg_outbox.testing import Receiver

TEXT = (pathlib.Path(__file__).parents[1] / "EVENTS.md").read_text()


def test_the_shop_of_the_page(dsn, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", dsn)
    shop, *others = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in shop.splitlines() if line.strip()]) < 120
    with Receiver() as receiver:
        names = {"dsn": dsn, "url": receiver.url("/orders"), "__name__": "shop"}
        exec(compile(shop, "EVENTS.md", "exec"), names)
        for other in others:
            exec(compile(other, "EVENTS.md", "exec"), names)
        with psycopg.connect(dsn) as conn:
            assert conn.execute("select amount from revenue").fetchone() == (42,)
            assert conn.execute("select status from outbox.sagas").fetchall() == [("completed",)]
            assert conn.execute("select count(*) from outbox.message where topic = 'shipment.request'").fetchone() == (1,)
            assert [event.type for event in names["store"].load(conn, "order-4711")] == ["order.placed", "order.paid"]
        (arrival,) = receiver.wait_for(1)
        assert arrival.json() == {"by": "card"}
    assert isinstance(names["app"], pg_outbox.App)
