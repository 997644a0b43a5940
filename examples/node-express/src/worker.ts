// The worker application: npx pg-outbox worker dist/worker.js
import { db, invoices, pool } from './database.js';
import { events } from './events.js';

class NotBillable extends Error {}

export default events.worker(
    'billing',
    {
        'order.created': async ({ order, amount }) => {
            if (amount === 13) throw new NotBillable('nobody pays this');
            await new Promise((resolve) => setTimeout(resolve, Number(process.env.WORK_MS ?? 10)));
            // Delivery is at least once: the second invoice of an order is the first one.
            await db.insert(invoices).values({ order, amount }).onConflictDoNothing();
        },
    },
    { client: pool, concurrency: 4, retry: { dead: [NotBillable] }, ensure: { maxAttempts: 8 } },
);
