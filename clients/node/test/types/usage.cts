// The same package from CommonJS.
import outbox = require('pg-outbox');
import testing = require('pg-outbox/testing');
import type { PoolClient } from 'pg';

export function produce(client: PoolClient): Promise<number> {
    return outbox.enqueue(client, { topic: 'a', payload: { n: 1 } });
}
export const drain: typeof testing.drain = testing.drain;
