// What users of pg-outbox/events write, type-checked against the packed declarations.
import {
    Aggregate, CommandBus, ConcurrencyError, defineEvents, EventStore, idempotency, InMemoryReadModel, NO_STREAM, ProjectionEngine, ReadModel, Repository, retry, Saga,
    SagaManager, subscribeAll, transaction, unchecked, type AnyReadModel, type Command, type EventHandlers, type EventsOf, type RecordedEvent, type SagaHandlers,
} from 'pg-outbox/events';
import { given, givenSaga, like } from 'pg-outbox/testing';
import type { Pool, PoolClient } from 'pg';
import type { Sql } from 'postgres';
import { z } from 'zod';

declare const pool: Pool;
declare const sql: Sql;

const events = defineEvents({
    'order.placed': z.object({ total: z.number(), at: z.coerce.date() }),
    'order.paid': unchecked<{ by: string }>(),
});
type OrderEvent = EventsOf<typeof events>;
const store = new EventStore({ registry: events });

class Order extends Aggregate<OrderEvent> {
    static readonly category = 'order';
    total = 0;
    paid = false;
    readonly handlers: EventHandlers<OrderEvent> = {
        'order.placed': ({ total, at }) => void (this.total = total + at.getTime()),
        'order.paid': () => void (this.paid = true),
    };
    pay(by: string): void {
        this.raise('order.paid', { by });
        // @ts-expect-error other data
        this.raise('order.paid', { total: 1 });
        // @ts-expect-error no such event
        this.raise('order.lost', {});
    }
}

export async function append(client: PoolClient): Promise<number> {
    const appended = await store.append(client, 'order-1', [{ type: 'order.placed', data: { total: 1, at: new Date() } }], NO_STREAM);
    await sql.begin((tx) => store.append(tx, 'order-1', [{ type: 'order.paid', data: { by: 'card' }, eventId: 'x' }], appended.lastVersion));
    // @ts-expect-error a pool is not a transaction
    await store.append(pool, 'order-1', [{ type: 'order.paid', data: { by: 'card' } }], 1);
    // @ts-expect-error other data
    await store.append(client, 'order-1', [{ type: 'order.paid', data: { total: 1 } }], 1);
    // @ts-expect-error no such event
    await store.append(client, 'order-1', [{ type: 'order.lost', data: {} }], 1);
    let sum = 0;
    for (const event of await store.load(client, 'order-1')) {
        if (event.type === 'order.placed') sum += event.data.total + event.data.at.getTime();
        else sum += event.data.by.length;
    }
    for await (const event of subscribeAll(pool, store, { types: ['order.*'] })) if (event.type === 'order.paid') sum += event.data.by.length;
    return sum;
}

type ShopCommand = Command<'order.place', { id: string; total: number }, number> | Command<'order.pay', { id: string }, void>;

export async function commands(): Promise<number> {
    const orders = new Repository(store, Order, { retry: { attempts: 5 } });
    const { aggregate, result } = await orders.execute(pool, '1', (order, tx: PoolClient) => (order.pay('card'), tx.query('select 1')));
    const bus = new CommandBus<ShopCommand, PoolClient>(pool)
        .use(retry(), idempotency({ key: 'id' }))
        .register('order.place', async ({ data }, { tx }) => (await store.append(tx, `order-${data.id}`, [], NO_STREAM)).lastVersion)
        .register('order.pay', ({ data }) => void data.id);
    // @ts-expect-error no such command
    bus.register('order.lose', () => {});
    // @ts-expect-error other data
    await bus.dispatch({ type: 'order.pay', data: { total: 1 } });
    const placed: number = await bus.dispatch({ type: 'order.place', data: { id: '1', total: 1 } });
    try {
        await transaction(pool, (tx) => orders.save(tx, aggregate));
    } catch (error) {
        if (error instanceof ConcurrencyError) return (error.actual ?? 0) + error.expected;
    }
    return placed + (result.rowCount ?? 0);
}

interface State {
    paid: boolean;
}
class Shipping extends Saga<OrderEvent, State> {
    readonly name = 'shipping';
    readonly startedBy = ['order.placed'] as const;
    override readonly steps = [{ name: 'pay' }];
    readonly handlers: SagaHandlers<OrderEvent, State> = {
        'order.paid': async (event, saga) => {
            saga.state.paid = event.data.by !== '';
            await saga.send({ type: 'shipment.request', data: { order: saga.id } });
            saga.complete();
        },
    };
    correlation(event: RecordedEvent<OrderEvent>): string {
        return event.stream;
    }
    initial(): State {
        return { paid: false };
    }
}

export async function rows(client: PoolClient): Promise<number> {
    const shape = { columns: { id: 'bigint', name: { type: 'text', name: 'full_name' }, tags: 'text[]', at: 'timestamptz' }, key: 'id' } as const;
    const model = new ReadModel({ table: 'people', ...shape });
    const both: AnyReadModel<typeof shape.columns>[] = [model, new InMemoryReadModel(shape)];
    await model.insert(client, { id: 1, name: 'Ada', tags: ['x'], at: new Date() });
    // @ts-expect-error a pool is not a transaction
    await model.clear(pool);
    // @ts-expect-error no such column
    await model.insert(client, { id: 1, nope: 1 });
    // @ts-expect-error a text
    await model.update(client, 1, { name: 1 });
    // @ts-expect-error no such column
    await model.find(pool, { where: [['nope', '=', 1]] });
    // @ts-expect-error no such operator
    await model.find(pool, { where: [['name', '~', 'A']], order: ['-at', 'id'] });
    const { items } = await both[0]!.find(client, { where: [['name', 'like', 'A%']], order: ['-at', 'id'] });
    const names = new ReadModel({ table: 'people', ...shape, into: ({ name }) => name ?? '' });
    return (items[0]?.at?.getTime() ?? 0) + (items[0]?.tags?.length ?? 0) + (await names.get(pool, 1)).length;
}

export async function models(signal: AbortSignal): Promise<void> {
    const engine = new ProjectionEngine(pool, store).register({
        name: 'revenue',
        handle: async (tx, list) => {
            for (const event of list) if (event.type === 'order.placed') await tx.query('select $1', [event.data.total]);
        },
    });
    await Promise.all([engine.run({ signal }), new SagaManager(pool, store).register(new Shipping()).run({ signal })]);
    await given(Order, [{ type: 'order.placed', data: { total: 1, at: new Date() } }]).when((order) => order.pay('card')).expect([{ type: 'order.paid', data: like({ by: 'card' }) }]);
    await givenSaga(new Shipping()).when({ type: 'order.paid', data: { by: 'x' } }).expect({ status: 'completed' });
    // @ts-expect-error no such event
    await givenSaga(new Shipping()).when({ type: 'order.lost', data: {} }).expect({});
}
