import { drizzle } from 'drizzle-orm/node-postgres';
import { integer, pgTable, serial } from 'drizzle-orm/pg-core';
import pg from 'pg';

export const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
// A connection that breaks while it is idle must not end the process.
pool.on('error', (error) => console.error(error.message));
export const db = drizzle(pool);

export const orders = pgTable('orders', { id: serial().primaryKey(), amount: integer().notNull() });
export const invoices = pgTable('invoices', { order: integer().primaryKey(), amount: integer().notNull() });
