"""`python -m pg_outbox`."""

import sys

from ._command import main

sys.exit(main())
