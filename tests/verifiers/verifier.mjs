// Reads requests of the dispatcher, one JSON object per line, and writes the verdict of third-party code on each, one per
// line. See verifier.py. This SDK also reads batches.
import { createInterface } from 'node:readline';

import { HTTP } from 'cloudevents';
import { Webhook } from 'standardwebhooks';

function judge(request) {
    const body = Buffer.from(request.body, 'base64').toString('utf8');
    if (request.secret !== undefined) {
        new Webhook(request.secret).verify(body, request.headers);
        return { verified: true };
    }
    const read = HTTP.toEvent({ headers: request.headers, body });
    const events = (Array.isArray(read) ? read : [read]).map((event) => {
        if (!event.validate()) throw new Error('invalid event');
        const { data, ...attributes } = event.toJSON();
        return { attributes, data };
    });
    return { events };
}

for await (const line of createInterface({ input: process.stdin })) {
    let verdict;
    try {
        verdict = judge(JSON.parse(line));
    } catch (error) {
        verdict = { error: error.constructor.name };
    }
    console.log(JSON.stringify(verdict));
}
