/** Only what a program needs that enqueues: it loads in a few milliseconds, without workers, readers and webhooks. */

export { enqueue, enqueueMany } from './client/outbox.js';
export { enqueueManyStatement, enqueueStatement, message, MessageBuilder } from './client/message.js';
export type { NewMessage } from './client/message.js';
export type { Executor, Session, Statement } from './client/driver.js';
export * from './client/errors.js';
