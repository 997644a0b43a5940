"""Reads requests of the dispatcher, one JSON object per line, and writes one line for each, the verdict of third-party code.

{"secret", "headers", "body" (base64)}: verified by standardwebhooks. The answer is {"verified": true}, or the error.
{"headers", "body"}: read by the CloudEvents SDK. The answer has the attributes and the data of one event.
"""

import base64
import json
import sys

from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook


def judge(request):
    body = base64.b64decode(request["body"])
    if "secret" in request:
        Webhook(request["secret"]).verify(body, request["headers"])
        return {"verified": True}
    event = from_http_event(HTTPMessage(headers=request["headers"], body=body))
    attributes = {name: value if isinstance(value, str) else value.isoformat() for name, value in event.get_attributes().items()}
    return {"events": [{"attributes": attributes, "data": event.get_data()}]}


for line in sys.stdin:
    try:
        verdict = judge(json.loads(line))
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise is their verdict
        verdict = {"error": type(error).__name__}
    print(json.dumps(verdict), flush=True)
