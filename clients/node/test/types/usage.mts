// What users write, type-checked against the packed declarations.
import {
    ConflictError, defineTopics, deliveries, enqueue, enqueueMany, message, Outbox, OutboxError, Reader, Reject, RetryAfter, shutdownSignal, transaction, unchecked, Verifier, Worker,
    type ClaimedMessage, type ErrorKind, type FeedMessage, type NewMessage,
} from 'pg-outbox';
import { assertEnqueued, drain, FakeReceiver, perform } from 'pg-outbox/testing';
import type { Pool, PoolClient } from 'pg';
import { z } from 'zod';
import * as v from 'valibot';
import express from 'express';
import type { Sql } from 'postgres';
import type { Knex } from 'knex';
import type { NodePgDatabase } from 'drizzle-orm/node-postgres';
import type { Kysely, Transaction as KyselyTransaction } from 'kysely';
import type { Transaction as SequelizeTransaction } from 'sequelize';
import type { EntityManager as TypeOrmManager } from 'typeorm';
import type { EntityManager as MikroManager } from '@mikro-orm/core';
import type { SqlEntityManager } from '@mikro-orm/knex';
import type { IncomingMessage } from 'node:http';

declare const pool: Pool;
declare const sql: Sql;
declare const knex: Knex;
declare const db: NodePgDatabase;
declare const request: IncomingMessage;

interface Order {
    id: number;
}

export async function produce(): Promise<number[]> {
    const order: NewMessage<Order> = { topic: 'order.created', payload: { id: 1 }, key: 'order-1', deliverAt: new Date() };
    const client = await pool.connect();
    const ids: number[] = [await enqueue(client, order), await new Outbox(pool).enqueue(message('a').json(1).key('k').header('h', 'v'))];
    await sql.begin(async (tx) => void ids.push(await enqueue(tx, order)));
    await knex.transaction(async (tx) => void ids.push(await enqueue(tx, order)));
    await db.transaction(async (tx) => void ids.push(await enqueue(tx, order)));
    await transaction(pool, async (tx) => assertEnqueued(tx, { topic: 'a' }));
    ids.push(...(await enqueueMany(client, [order])));
    // @ts-expect-error a pool is not a transaction
    await enqueue(pool, order);
    // @ts-expect-error a message has a topic
    await enqueue(client, { payload: 1 });
    // @ts-expect-error there is no such option
    await enqueue(client, { topic: 'a', payload: 1, prio: 1 });
    // @ts-expect-error not something that runs statements
    await enqueue(5, order);
    return ids;
}

export async function admin(): Promise<void> {
    const outbox = new Outbox(pool);
    const endpoint = await outbox.createEndpoint({ name: 'shop', url: 'https://shop.example.com', timeout: 5 });
    const secret: string = endpoint.signingSecret;
    // @ts-expect-error there is no such order
    await outbox.subscribe({ name: 'x', topics: ['#'], ordering: 'keyed' });
    await outbox.subscribe({ name: 'shop', topics: ['order.#'], endpoint: 'shop', ttl: '1 day' });
    const head: number = await outbox.head();
    const at: Date | null = (await outbox.cursorGet({ consumer: 'c' })).updatedAt;
    const letters = await outbox.list('dead_letter_status', { where: { resolution: 'open' }, orderBy: 'deadAt', descending: true, limit: 5 });
    const error: string | null | undefined = letters[0]?.lastError;
    // @ts-expect-error an argument is missing
    await outbox.createEndpoint({ name: 'x' });
    // @ts-expect-error no such column
    await outbox.list('dead_letter_status', { orderBy: 'nothing' });
    void [secret, head, at, error];
}

export async function consume(): Promise<void> {
    const signal = shutdownSignal();
    await new Worker(pool, 'work', async (m: ClaimedMessage, { signal }) => {
        if (signal.aborted) throw new RetryAfter(5);
        // @ts-expect-error the type of the content is not known
        void m.json().id;
        if (m.json<Order>().id < 0) throw new Reject('no');
        const position: number = m.position;
        return `${m.webhookId} ${position} ${m.key ?? ''} ${m.lastError ?? ''}`;
    }, { concurrency: 5, signal, onError: (error: unknown) => void error }).run();
    for await (const delivery of deliveries(pool, 'work', { signal })) {
        const done: boolean = await delivery.complete();
        void done;
    }
    for await (const m of new Reader(pool, { consumer: 'search', topics: ['order.*'], signal })) {
        const read: FeedMessage = m;
        void [read.position, read.bytes()];
    }
    await new Reader(pool, { consumer: 'c' }).apply(async (tx, messages) => {
        const client: PoolClient = tx;
        await client.query('select 1', [messages.length]);
    });
    await new Reader(sql, { consumer: 'c' }).apply(async (tx, [first]) => void (await tx`select ${first!.position}`));
    await new Reader(db, { consumer: 'c' }).apply(async (tx) => void (await tx.execute('select 1')));
    await new Reader(knex, { consumer: 'c' }).apply(async (tx) => void (await tx.raw('select 1')));
    const summary = await drain(pool, 'work', () => undefined);
    const completed: number = summary.completed;
    const receiver = await FakeReceiver.start();
    receiver.answer({ status: 503, delay: 1 });
    void completed;
}

export async function receive(): Promise<string> {
    try {
        const webhook = await new Verifier(['whsec_a', 'whsec_b'], { tolerance: 60 }).read(request);
        return webhook.json<Order>().id.toString() + webhook.id;
    } catch (error) {
        if (error instanceof ConflictError) return error.codeName;
        if (error instanceof OutboxError) {
            const kind: ErrorKind = error.kind;
            return `${kind} ${error.code} ${error.detail ?? ''} ${error.hint ?? ''}`;
        }
        throw error;
    }
}

export async function otherDrivers(
    kysely: Kysely<{ orders: { id: number } }>,
    sessions: [KyselyTransaction<unknown>, SequelizeTransaction, TypeOrmManager, MikroManager, SqlEntityManager],
): Promise<void> {
    for (const session of sessions) await enqueue(session, { topic: 'a', payload: 1 });
    await new Reader(kysely, { consumer: 'c' }).apply(async (tx) => void (await tx.selectFrom('orders').select('id').execute()));
}

const events = defineTopics({
    'order.created': z.object({ order: z.number(), at: z.coerce.date() }),
    'order.paid': v.object({ order: v.number() }),
    'order.noted': unchecked<{ note: string }>(),
});

export async function app(client: PoolClient): Promise<void> {
    await events.enqueue(client, 'order.paid', { order: 1 }, { key: 'order-1' });
    await events.enqueue(client, 'order.noted', { note: 'a' });
    // @ts-expect-error another payload
    await events.enqueue(client, 'order.paid', { order: '1' });
    // @ts-expect-error no such topic
    await events.enqueue(client, 'order.lost', { order: 1 });
    // @ts-expect-error a pool is not a transaction
    await events.enqueue(pool, 'order.paid', { order: 1 });
    class NotBillable extends Error {}
    const worker = events.worker('billing', {
        'order.created': async (order, message, { signal }) => {
            const at: Date = order.at;
            void [at, message.webhookId, signal];
        },
        'order.paid': { handle: (paid) => paid.order + 1, concurrency: 2, retry: { on: [TypeError], after: 5 } },
    }, { concurrency: 16, retry: { dead: [NotBillable] }, logger: console, periodic: [{ cron: '0 3 * * *', topic: 'order.noted', payload: () => ({ note: 'x' }) }] });
    // @ts-expect-error no such topic
    events.worker('x', { 'order.lost': () => {} });
    events.worker('all', {
        'order.*': (payload, message) => void ['note' in payload, 'order' in payload, message.topic],
    }, {
        projections: [{ consumer: 'totals', topics: ['order.*'], apply: async (tx: PoolClient, messages) => void (await tx.query('select $1', [messages.length])) }],
        onStartup: () => {},
        onShutdown: async () => {},
    });
    const port: number = (await worker.run({ health: ':8080' })).completed;
    void [port, await perform(worker, 'order.paid', { order: 1 }), await drain(pool, worker)];
}

export function receiver(): void {
    express().post('/hooks', new Verifier('whsec_a').middleware(), (request, response) => {
        const id: string | undefined = request.webhook?.id;
        response.json({ id });
    });
}
