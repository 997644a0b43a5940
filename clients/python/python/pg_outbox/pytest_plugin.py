"""The plugin of pytest: a database with the extension for each test, a fixed clock, fixed ids, and given/when/then.

It is loaded wherever pytest and this package are installed, and does nothing until a test asks for one of its fixtures.

| fixture | gives a test |
|---|---|
| `outbox_dsn` | the connection string of a database of its own with the extension |
| `outbox` | an Outbox on this database |
| `fixed_clock` | a clock that stands still at 2026-01-01, and `advance()` |
| `fixed_ids` | ids that are 00000000-0000-0000-0000-000000000001 and so on |
| `given`, `given_saga` | the functions of pg_outbox.testing |

The server is the one of `--outbox-dsn` or PG_OUTBOX_TEST_DSN, whose role may create databases, or a throwaway server for the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from . import Outbox
    from ._throwaway import TestServer
    from .events.testing import Clock


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option --outbox-dsn."""
    parser.getgroup("pg_outbox").addoption(
        "--outbox-dsn", default=None, help="connection string of a server for tests with pg_outbox (default: a throwaway server)"
    )


@pytest.fixture(scope="session")
def outbox_server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    """The server of the session. `database()` creates a database with the extension."""
    from ._throwaway import TestServer

    dsn = request.config.getoption("--outbox-dsn")
    server = TestServer(dsn) if dsn else TestServer.given()
    yield server
    server.end()


@pytest.fixture
def outbox_dsn(outbox_server: TestServer) -> Iterator[str]:
    """The connection string of a database of this test with the extension."""
    dsn = outbox_server.database()
    yield dsn
    outbox_server.drop(dsn)


@pytest.fixture
def outbox(outbox_dsn: str) -> Iterator[Outbox]:
    """An Outbox on the database of this test."""
    from . import Outbox

    made = Outbox(outbox_dsn)
    yield made
    made.close()


@pytest.fixture
def fixed_clock() -> Iterator[Clock]:
    """The clock of this test, which stands still at 2026-01-01T00:00:00Z: `fixed_clock.advance(timedelta(days=2))`."""
    from .events.context import everywhere
    from .events.testing import AT, Clock

    clock = Clock(AT)
    with everywhere(clock=clock):
        yield clock


@pytest.fixture
def fixed_ids() -> Iterator[None]:
    """Makes the ids of this test 00000000-0000-0000-0000-000000000001 and so on."""
    from .events.context import everywhere, numbered

    with everywhere(ids=numbered()):
        yield


@pytest.fixture
def given() -> Callable[..., Any]:
    """`given(Order, OrderPlaced(42)).when(lambda order: order.pay("card")).then(OrderPaid("card"))`."""
    from .events import testing

    return testing.given


@pytest.fixture
def given_saga() -> Callable[..., Any]:
    """`given_saga(Shipping, OrderPlaced(42)).when(OrderPaid("card")).then_status("completed")`."""
    from .events import testing

    return testing.given_saga
