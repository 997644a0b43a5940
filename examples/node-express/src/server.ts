// Takes orders, receives webhooks, and keeps the totals up to date.
import { once } from 'node:events';

import express from 'express';
import { Reader, shutdownSignal, Verifier } from 'pg-outbox';

import { db, orders, pool } from './database.js';
import { events } from './events.js';

const app = express();
const signal = shutdownSignal();
const received = new Set<string>();

// A connection that a client keeps open would keep the server from ending.
app.use((_, response, next) => {
    if (signal.aborted) response.set('connection', 'close');
    next();
});

// The verifier needs the bytes that arrived, so it comes before express.json().
app.post('/hooks', new Verifier(process.env.WEBHOOK_SECRET ?? '').middleware(), (request, response) => {
    // Delivery is at least once: the id is the same on every attempt.
    received.add(request.webhook!.id);
    response.sendStatus(204);
});

app.post('/orders', express.json(), async (request, response) => {
    const amount = Number(request.body?.amount);
    try {
        // The order and its message: both, or neither.
        const id = await db.transaction(async (tx) => {
            const [order] = await tx.insert(orders).values({ amount }).returning();
            await events.enqueue(tx, 'order.created', { order: order!.id, amount }, { key: `order-${order!.id}` });
            return order!.id;
        });
        response.status(201).json({ id });
    } catch (error) {
        response.status(422).json({ error: String(error) });
    }
});

app.get('/totals', async (_, response) => {
    const { rows } = await pool.query('select orders, amount from totals');
    response.json({ ...rows[0], webhooks: received.size });
});

const server = app.listen(Number(process.env.PORT ?? 8080), '127.0.0.1');
const closed = once(server, 'close');
signal.addEventListener('abort', () => server.close());

// A projection: its cursor moves in the transaction of its effect, so that every message counts exactly once.
await new Reader(pool, { consumer: 'totals', topics: ['order.created'], signal }).apply(async (tx, messages) => {
    for (const message of messages) {
        await tx.query('update totals set orders = orders + 1, amount = amount + $1', [message.json<{ amount: number }>().amount]);
    }
});
// Requests that have begun are answered before their connections end.
await closed;
await pool.end();
