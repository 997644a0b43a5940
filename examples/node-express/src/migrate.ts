// Creates the tables, and the endpoint and subscription that push orders to POST /hooks of the server.
import { Outbox } from 'pg-outbox';

import { pool } from './database.js';

await pool.query(`
    create extension if not exists pg_outbox;
    create table if not exists orders (id serial primary key, amount int not null check (amount < 1000));
    create table if not exists invoices ("order" int primary key, amount int not null);
    create table if not exists totals (orders int not null, amount int not null);
    insert into totals select 0, 0 where not exists (select from totals)`);
const outbox = new Outbox(pool);
const secret = process.env.WEBHOOK_SECRET;
const known = await outbox.list('endpoint', { where: { name: 'shop' } });
if (known.length === 0) await outbox.createEndpoint({ name: 'shop', url: process.env.WEBHOOK_URL ?? 'http://127.0.0.1:8080/hooks', secret });
await outbox.ensureSubscription({ name: 'shop', topics: ['order.#'], endpoint: 'shop' });
await pool.end();
